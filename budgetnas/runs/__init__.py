"""One recorded training: claimed, recorded, checkpointed, resumed, and interrupted at a safe point."""
