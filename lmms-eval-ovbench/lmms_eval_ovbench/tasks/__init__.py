"""Task files for lmms-eval. `python -m lmms_eval_ovbench.tasks` prints the folder, which goes to --include_path."""
