//! Table of the settings a proxy reads from its environment.
