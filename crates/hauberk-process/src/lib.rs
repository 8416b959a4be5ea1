//! What every long-running binary shares.
