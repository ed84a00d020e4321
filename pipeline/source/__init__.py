"""Where recordings come from: manifests in, one Arrow schema out; durations probed where a manifest has none."""
