"""The solver of the logistic probe: L-BFGS on the softmax objective, in numpy or torch, from penalty to penalty."""
