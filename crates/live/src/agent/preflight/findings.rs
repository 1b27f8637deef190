//! Findings while they are collected.

use super::document::{Finding, Severity};
use carreto_error::Error;

/// The findings so far, in the order of looking.
#[derive(Debug, Default)]
pub(super) struct Findings(Vec<Finding>);

impl Findings {
    pub(super) fn ok(&mut self, item: impl Into<String>, detail: impl Into<String>) {
        self.add(item.into(), Severity::Ok, detail.into(), None);
    }

    pub(super) fn warning(
        &mut self,
        item: impl Into<String>,
        detail: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.add(item.into(), Severity::Warning, detail.into(), Some(remedy.into()));
    }

    pub(super) fn blocked(
        &mut self,
        item: impl Into<String>,
        detail: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.add(item.into(), Severity::Blocked, detail.into(), Some(remedy.into()));
    }

    /// An error stands in the way.
    pub(super) fn error(&mut self, item: impl Into<String>, error: &Error) {
        self.blocked(item, carreto_error::chain_text(error), error.remedy());
    }

    fn add(&mut self, item: String, severity: Severity, detail: String, remedy: Option<String>) {
        self.0.push(Finding { item, severity, detail, remedy });
    }

    pub(super) fn are_blocking(&self) -> bool {
        self.0.iter().any(|finding| finding.severity == Severity::Blocked)
    }

    pub(super) fn into_list(self) -> Vec<Finding> {
        self.0
    }

    /// The severity of the last finding about `item`.
    #[cfg(test)]
    pub(super) fn about(&self, item: &str) -> Option<Severity> {
        self.0.iter().rev().find(|finding| finding.item == item).map(|finding| finding.severity)
    }
}
