"""3-D convolution of channels-last clips on CPU: the plain form that defines it, and the compiled operator."""
