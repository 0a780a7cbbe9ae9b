"""What all unlearning methods share."""
