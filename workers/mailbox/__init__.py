"""Order and time: take under a lease, settle, renew, sweep, ring. The scripts decide; this carries."""
