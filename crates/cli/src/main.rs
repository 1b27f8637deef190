//! carreto
fn main() {}
