//! What the two radar sites announce.

use px::message::Envelope;

use crate::support::v00_urp;

/// These products as one source announces them.
pub fn announced_by(source: &str, count: usize) -> Vec<Envelope> {
    let announcement = |n: usize| {
        let path =
            format!("db/20261121/RADAR/URP/XAM/20261121{n:06}~~X,60,10,PRECIPET,MM_HR,MM:URP:XAM:RADAR:META::20261121");
        v00_urp(&format!("http://{source}/"), &path, 1000 + n)
    };
    (0..count).map(announcement).collect()
}

/// The key under which it is forwarded.
pub fn forwarded_key(announcement: &Envelope) -> String {
    announcement.key.replacen("v00.urp.input", "v00.urp.notify", 1)
}
