"""Questions about scenes: the 16 sub-tasks of OVBench, and simple ones to begin with."""
