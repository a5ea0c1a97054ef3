"""What Diorama's clips are worth: picture, motion, given first frames, sound and words, against rendered clips."""
