//! Address ranges: the ones that are closed to handlers unless granted, and the notation to grant one.
//!
//! Ranges are compared by bits in their own family only: no address is ever unwrapped into another one, so there is no
//! second reading of it. Used by the filter on resolved addresses and by the config.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use super::GrantError;

/// A range of addresses: `10.0.0.0/8`, `fd00::/8`. The bits after the prefix are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    base: IpAddr,
    prefix: u8,
}

impl Cidr {
    const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Self {
        Self { base: IpAddr::V4(Ipv4Addr::new(a, b, c, d)), prefix }
    }

    const fn v6(segments: [u16; 8], prefix: u8) -> Self {
        let [a, b, c, d, e, f, g, h] = segments;
        Self { base: IpAddr::V6(Ipv6Addr::new(a, b, c, d, e, f, g, h)), prefix }
    }

    /// The range of this one address.
    pub fn single(address: IpAddr) -> Self {
        Self { base: address, prefix: width(address) }
    }

    /// Whether `address` is in it. An IPv6 range holds no IPv4 address, nor the other way round.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.base.is_ipv4() == address.is_ipv4() && masked(address, self.prefix) == bits(self.base)
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn masked(address: IpAddr, prefix: u8) -> u128 {
    let free = u32::from(width(address).saturating_sub(prefix));
    bits(address).checked_shr(free).and_then(|kept| kept.checked_shl(free)).unwrap_or(0)
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

impl FromStr for Cidr {
    type Err = GrantError;

    fn from_str(text: &str) -> Result<Self, GrantError> {
        let wrong = |help: String| Err(GrantError::new(format!("`{}` is no address range", super::quoted(text)), help));
        let Some((address, prefix)) = text.split_once('/') else {
            return match text.parse::<IpAddr>() {
                Ok(address) => wrong(format!("write \"{}\" for that one address", Self::single(address))),
                Err(_) => wrong("write an address, `/` and a prefix length, such as \"10.0.0.0/8\"".into()),
            };
        };
        let Ok(base) = address.parse::<IpAddr>() else {
            return wrong("write an address, `/` and a prefix length, such as \"10.0.0.0/8\"".into());
        };
        // `u8::from_str` would take `+8` and `08`.
        let prefix = prefix.parse::<u8>().ok().filter(|length| *length <= width(base) && length.to_string() == prefix);
        let Some(prefix) = prefix else {
            return wrong(format!("the prefix length after an address like this is 0 to {}", width(base)));
        };
        let low = masked(base, prefix);
        if low != bits(base) {
            let base = match base {
                IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(low).expect("masked from 32 bits"))),
                IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from_bits(low)),
            };
            return wrong(format!("bits after the prefix are set; write \"{}\"", Self { base, prefix }));
        }
        Ok(Self { base, prefix })
    }
}

/// What is closed, and its name; the narrower range stands before the wider one.
const CLOSED: [(Cidr, &str); 41] = [
    (Cidr::v4(0, 0, 0, 0, 32), "unspecified"),
    (Cidr::v4(0, 0, 0, 0, 8), "this network"),
    (Cidr::v4(10, 0, 0, 0, 8), "private"),
    (Cidr::v4(100, 64, 0, 0, 10), "carrier-grade NAT"),
    (Cidr::v4(127, 0, 0, 0, 8), "loopback"),
    (Cidr::v4(168, 63, 129, 16, 32), "cloud metadata"),
    (Cidr::v4(169, 254, 169, 254, 32), "cloud metadata"),
    (Cidr::v4(169, 254, 0, 0, 16), "link-local"),
    (Cidr::v4(172, 16, 0, 0, 12), "private"),
    (Cidr::v4(192, 0, 0, 0, 24), "protocol assignments"),
    (Cidr::v4(192, 0, 2, 0, 24), "documentation"),
    (Cidr::v4(192, 88, 99, 0, 24), "6to4 relay"),
    (Cidr::v4(192, 168, 0, 0, 16), "private"),
    (Cidr::v4(198, 18, 0, 0, 15), "benchmarks"),
    (Cidr::v4(198, 51, 100, 0, 24), "documentation"),
    (Cidr::v4(203, 0, 113, 0, 24), "documentation"),
    (Cidr::v4(224, 0, 0, 0, 4), "multicast"),
    (Cidr::v4(255, 255, 255, 255, 32), "broadcast"),
    (Cidr::v4(240, 0, 0, 0, 4), "reserved"),
    (Cidr::v6([0; 8], 128), "unspecified"),
    (Cidr::v6([0, 0, 0, 0, 0, 0, 0, 1], 128), "loopback"),
    (Cidr::v6([0; 8], 96), "IPv4-compatible"),
    (Cidr::v6([0, 0, 0, 0, 0, 0xffff, 0, 0], 96), "IPv4-mapped"),
    (Cidr::v6([0, 0, 0, 0, 0xffff, 0, 0, 0], 96), "IPv4-translated"),
    (Cidr::v6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96), "NAT64"),
    (Cidr::v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48), "local NAT64"),
    (Cidr::v6([0x100, 0, 0, 0, 0, 0, 0, 0], 64), "discard"),
    (Cidr::v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 32), "Teredo"),
    (Cidr::v6([0x2001, 2, 0, 0, 0, 0, 0, 0], 48), "benchmarks"),
    (Cidr::v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23), "protocol assignments"),
    (Cidr::v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32), "documentation"),
    (Cidr::v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16), "6to4"),
    (Cidr::v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20), "documentation"),
    (Cidr::v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7), "unique local"),
    (Cidr::v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10), "link-local"),
    (Cidr::v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10), "site-local"),
    (Cidr::v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8), "multicast"),
    // Global unicast is 2000::/3; all the rest is not handed out, and closed until it is.
    (Cidr::v6([0; 8], 3), "reserved"),
    (Cidr::v6([0x4000, 0, 0, 0, 0, 0, 0, 0], 2), "reserved"),
    (Cidr::v6([0x8000, 0, 0, 0, 0, 0, 0, 0], 2), "reserved"),
    (Cidr::v6([0xc000, 0, 0, 0, 0, 0, 0, 0], 2), "reserved"),
];

/// The name of the range that closes `address` to handlers, if one does: everything that is not plainly a public unicast
/// address. That holds loopback, private and link-local networks, cloud metadata, and each IPv6 form that carries an
/// IPv4 address inside.
pub fn closed_range(address: IpAddr) -> Option<&'static str> {
    CLOSED.iter().find(|(range, _)| range.contains(address)).map(|(_, name)| *name)
}
