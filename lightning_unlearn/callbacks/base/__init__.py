"""What all evaluators share."""
