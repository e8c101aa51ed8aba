//! What is linked into the database is announced: the seed's `amqp_expose_db`.

use crate::support::{Feed, TestBroker, TestSite};

const RECEIVER: &str = "rx/in";
const ANNOUNCER: &str = "tx/amqp_expose_db";
/// The seed's product, as it was before its reception.
const PRODUCT: &str = "201501201810~~PA,60,10,PA_PRECIPET,MM_HR,MM:URP:IWA:RADAR:META";
/// The seed's digest: md5 of the first five fields of the name.
const DIGEST: &str = "a985c32cbdee8af2ab5d7b8f6022e781";

#[test]
fn a_product_is_announced_once_it_is_linked_into_the_database() {
    let broker = TestBroker::new("announce");
    let feed = Feed::new(&broker.config());
    feed.queue("input", &["v00.urp.input.#"]);
    let site = TestSite::new(&broker);
    site.unit(RECEIVER, "type = \"single-file\"\n");
    site.unit(
        ANNOUNCER,
        "type = \"announce\"\nbroker = \"main\"\n\
         announce = [{ format = \"v00\", key = \"v00.urp.input\", digest = \"name\" }]\n\
         [[tree]]\nurl = \"http://urp-1.cmc.ec.gc.ca/db/\"\n",
    );
    std::fs::create_dir_all(site.path("db")).expect("db");
    let _units = [RECEIVER, ANNOUNCER].map(|unit| site.run_ready(unit));
    site.write(&format!("rxq/in/{PRODUCT}"), "radar");

    let announced = feed.reader("input").take(1).remove(0);
    let body = String::from_utf8(announced.body).expect("text");
    let words: Vec<&str> = body.split(' ').collect();
    assert_eq!(words[..3], [DIGEST, "5", "http://urp-1.cmc.ec.gc.ca/"], "{body}");
    let path = words[3];
    let below = format!("/RADAR/URP/IWA/{PRODUCT}::");
    let (date, stamp) = path
        .strip_prefix("db/")
        .and_then(|path| path.split_once(&below))
        .expect(path);
    assert_eq!((date.len(), stamp.len()), (8, 14), "{path}");
    assert!(stamp.starts_with(date), "{path}");
    assert_eq!(announced.key, format!("v00.urp.input.{}", path.replace('/', ".")));
    assert_eq!(std::fs::read_to_string(site.path(path)).expect("it is there"), "radar");
    site.wait_count(ANNOUNCER, "announced", 1);
    assert_eq!(feed.depth("input"), Some(0), "once");
}
