"""Speed, as ratios to peers measured in the same run; never asserted in tests."""
