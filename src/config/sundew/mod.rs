//! Sundew's configuration, as far as px has to understand it: `px.conf`, `pxRouting.conf` and the `.conf` of flows.

mod lines;
