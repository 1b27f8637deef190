//! The composition root: a job specification becomes pre-checks, a plan, a run, a verification and a report.
