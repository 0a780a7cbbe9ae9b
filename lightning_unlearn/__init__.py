"""Make a trained Lightning model forget chosen training samples, and show by measurement that it did."""
