//! What a caller of `px::broker` may rely on, whatever the transport.

mod consuming;
mod publishing;
mod routing;

pub use consuming::*;
pub use publishing::*;
pub use routing::*;
