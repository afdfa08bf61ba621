"""Our own operators for Atlas A2 and A3 in AscendC: sources (op_host, op_kernel), their build, and their binding."""
