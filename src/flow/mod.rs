//! Components, and the two places that settle and publish.
