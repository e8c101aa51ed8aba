//! What the demo's producers write: names and sizes as in the field, content that can be made again for comparison.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use jiff::tz::Offset;
use jiff::{SignedDuration, Timestamp};

/// The producers, which announce the same products.
pub const PRODUCERS: [&str; 2] = ["urp-1", "urp-2"];

const SITES: [&str; 12] = [
    "IWA", "WHK", "WUJ", "XAM", "XBE", "XFT", "XGO", "XLA", "XMB", "XNC", "XSS", "XTI",
];
const RADAR: [&str; 3] = [
    "PA,60,10,PA_PRECIPET,MM_HR,MM",
    "PA,CAPPI,1.5,RAIN,DBZ",
    "PA,ECHOTOP,18,KM",
];
const PROVINCES: [&str; 6] = ["AB", "BC", "NS", "ON", "QC", "YT"];
const FIELDS: [&str; 5] = ["APCP_SFC_0", "HGT_ISBL_500", "PRMSL_MSL_0", "TMP_TGL_2", "WIND_TGL_10"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A database of products: names of colon fields, the last one when this producer had it. Renamed into place.
    Radar,
    /// A page of the public site. Linked into place.
    CityPage,
    /// Output of a model. Written in place, then closed.
    Grib,
}

/// One product, as both producers have it.
#[derive(Debug, Clone)]
pub struct Product {
    index: usize,
    kind: Kind,
    size: usize,
    /// The path in each producer's tree.
    pub paths: [String; 2],
}

/// The products of a run: the same for the same number and start.
pub fn plan(count: usize, start: Timestamp) -> Vec<Product> {
    (0..count).map(|index| Product::new(index, start)).collect()
}

impl Product {
    fn new(index: usize, start: Timestamp) -> Product {
        let mut random = fastrand::Rng::with_seed(index as u64);
        let kind = match index % 10 {
            0 | 3 | 5 | 7 | 9 => Kind::Radar,
            1 | 4 | 8 => Kind::CityPage,
            _ => Kind::Grib,
        };
        let size = match kind {
            Kind::Radar => random.usize(300..30_000),
            Kind::CityPage => random.usize(15_000..60_000),
            Kind::Grib if random.u8(0..8) == 0 => random.usize(500_000..1_500_000),
            Kind::Grib => random.usize(4_000..200_000),
        };
        let paths = [0, 1].map(|producer| path(index, kind, producer, start));
        Product {
            index,
            kind,
            size,
            paths,
        }
    }

    /// The file name that a producer gives it.
    pub fn file_name(&self, producer: usize) -> &str {
        let path = &self.paths[producer];
        path.rsplit_once('/').map_or(path.as_str(), |(_, name)| name)
    }

    /// What it holds. Radar products tell who made them, so that their copies differ.
    pub fn content(&self, producer: usize) -> Vec<u8> {
        let mut random = fastrand::Rng::with_seed(!(self.index as u64));
        match self.kind {
            Kind::Radar => {
                let mut text = format!("producer {}\nname {}\n", PRODUCERS[producer], self.file_name(producer));
                text.extend((0..self.size / 8).map(|_| format!("{:07} ", random.u32(0..10_000_000))));
                text.into_bytes()
            }
            Kind::CityPage => {
                let mut text = String::from("<?xml version='1.0' encoding='ISO-8859-1'?>\n<siteData>\n");
                while text.len() < self.size {
                    let (hour, degrees) = (random.u8(0..24), random.i8(-35..35));
                    text.push_str(&format!(
                        " <temperature unitType=\"metric\" hour=\"{hour:02}\">{degrees}</temperature>\n"
                    ));
                }
                text.push_str("</siteData>\n");
                text.into_bytes()
            }
            Kind::Grib => {
                let mut bytes = b"GRIB\0\0\0\x02".to_vec();
                bytes.extend((self.size as u64 + 20).to_be_bytes());
                let body = bytes.len();
                bytes.resize(body + self.size, 0);
                random.fill(&mut bytes[body..]);
                bytes.extend(b"7777");
                bytes
            }
        }
    }

    /// Writes a producer's copy into its tree, in the way of its kind.
    pub fn write(&self, tree: &Path, producer: usize) -> io::Result<()> {
        let path = tree.join(&self.paths[producer]);
        let parent = path.parent().unwrap_or(tree);
        std::fs::create_dir_all(parent)?;
        let content = self.content(producer);
        let hidden = || -> io::Result<PathBuf> {
            let hidden = parent.join(format!(".{}", self.index));
            std::fs::write(&hidden, &content)?;
            Ok(hidden)
        };
        match self.kind {
            Kind::Radar => std::fs::rename(hidden()?, path),
            Kind::CityPage => {
                let hidden = hidden()?;
                std::fs::hard_link(&hidden, path)?;
                std::fs::remove_file(hidden)
            }
            Kind::Grib => {
                let mut file = std::fs::File::create_new(path)?;
                content.chunks(64 << 10).try_for_each(|chunk| file.write_all(chunk))
            }
        }
    }
}

/// Names without blanks, for `v00.urp` cannot carry one.
fn path(index: usize, kind: Kind, producer: usize, start: Timestamp) -> String {
    match kind {
        Kind::Radar => {
            let cycle = digits(start - SignedDuration::from_mins(index as i64), "%Y%m%d%H%M");
            // Every producer has it at its own time.
            let stamp = digits(start + SignedDuration::from_secs(producer as i64), "%Y%m%d%H%M%S");
            let (site, what) = (SITES[index % SITES.len()], RADAR[index % RADAR.len()]);
            let day = digits(start, "%Y%m%d");
            format!("db/{day}/RADAR/URP/{site}/{cycle}~~{what}:URP:{site}:RADAR:META::{stamp}")
        }
        Kind::CityPage => {
            let (province, language) = (PROVINCES[index % PROVINCES.len()], ["e", "f"][index % 2]);
            format!("citypage_weather/xml/{province}/s{index:07}_{language}.xml")
        }
        Kind::Grib => {
            let (run, field) = (digits(start, "%Y%m%d%H"), FIELDS[index % FIELDS.len()]);
            let hour = &run[8..];
            let lead = index % 85;
            format!("model_gem_regional/10km/grib2/{hour}/{lead:03}/CMC_reg_{field}_ps10km_{run}_P{index:03}.grib2")
        }
    }
}

fn digits(time: Timestamp, format: &str) -> String {
    Offset::UTC.to_datetime(time).strftime(format).to_string()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::message::product_name;

    #[test]
    fn producers_agree_on_five_fields_and_on_nothing_more() {
        let products = plan(500, "2026-11-21T20:12:34Z".parse().unwrap());
        let mut seen = HashSet::new();
        for product in &products {
            let [first, second] =
                [0, 1].map(|producer| product_name::first_five(product.file_name(producer).as_bytes()));
            assert_eq!(first, second);
            assert!(seen.insert(first), "{product:?}");
            assert!(
                product
                    .paths
                    .iter()
                    .all(|path| path.bytes().all(|byte| byte.is_ascii_graphic()))
            );
        }
        assert_eq!(
            products[0].paths[0],
            "db/20261121/RADAR/URP/IWA/202611212012~~PA,60,10,PA_PRECIPET,MM_HR,MM:URP:IWA:RADAR:META::20261121201234"
        );
        assert_ne!(products[0].paths[0], products[0].paths[1]);
        assert_ne!(products[0].content(0), products[0].content(1));
        assert_eq!(products[2].content(0), products[2].content(1));
    }

    #[test]
    fn every_kind_is_written_whole_and_leaves_nothing_hidden() {
        let tree = tempfile::tempdir().unwrap();
        for product in plan(10, "2026-11-21T20:12:34Z".parse().unwrap()) {
            product.write(tree.path(), 1).unwrap();
            let path = tree.path().join(&product.paths[1]);
            assert_eq!(std::fs::read(&path).unwrap(), product.content(1));
            let beside = std::fs::read_dir(path.parent().unwrap()).unwrap();
            assert!(
                beside
                    .map(|entry| entry.unwrap().file_name())
                    .all(|name| !name.to_string_lossy().starts_with('.'))
            );
        }
    }
}
