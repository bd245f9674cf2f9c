"""Other tools' configurations and ours: what they say in our words, and ours in theirs. No torch."""
