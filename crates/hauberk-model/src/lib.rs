//! The vocabulary of the mesh and its pure decisions.
