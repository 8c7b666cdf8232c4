"""What is wrong with this machine or cluster, and how to mend it; torch is never imported into this process."""
