"""Prediction of pixels without tokens: the baseline that priors are compared with."""
