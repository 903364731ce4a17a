"""The sources' own frameworks, run live in interpreters of their own, or their original code, to compare with."""
