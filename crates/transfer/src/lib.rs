//! The block transfer engine: plan, bounded parallel copy, zero handling, digests, checkpoints, pacing and events.
