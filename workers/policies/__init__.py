"""May this delivery go now? One rule, one file, one call shape; `chain.ORDER` is the order."""
