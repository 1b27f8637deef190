//! What a migration will cost, from a table that the operator gives.
//!
//! Providers change their prices and each contract has its own: none are built in.

mod estimate;
mod money;

pub use estimate::{Estimate, Prices};
pub use money::Money;
