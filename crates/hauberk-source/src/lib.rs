//! Where resource events come from.
