//! To the application beside us.
