"""AscendC operators of this project for Atlas A2 and A3: sources (op_host, op_kernel), build and binding."""
