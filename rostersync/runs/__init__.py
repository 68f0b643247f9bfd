"""Everything that syncs or writes goes through here: run requests and their executor, writes, hooks and audit."""
