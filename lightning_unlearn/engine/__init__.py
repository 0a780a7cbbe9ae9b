"""Ask and train a model under a Trainer's strategy, outside its loop."""
