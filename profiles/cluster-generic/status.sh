#!/bin/sh
# What has become of a job of SLURM: running, success or failed. Snakemake calls it with the id.
state=$(squeue --noheader --states=all --format=%T --jobs="$1" 2> /dev/null)
# squeue forgets a job some minutes after its end; the accounting, where there is one, does not.
[ -n "$state" ] ||
    state=$(sacct --noheader --parsable2 --allocations --format=State --jobs="$1" 2> /dev/null)

case "$state" in
    COMPLETED) echo success ;;
    PENDING | CONFIGURING | RUNNING | COMPLETING | SUSPENDED | REQUEUED | RESIZING) echo running ;;
    *) echo failed ;; # or unknown by now: its files are looked at again, and what is missing fetched
esac
