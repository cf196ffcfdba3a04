//! [`CertificateNames`] and [`kind_of_key`]: what a certificate and a key say, and neither webpki nor rustls tells. They
//! read DER. The names are read only after webpki has parsed the certificate.

use std::net::IpAddr;

use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// The longest SPIFFE ID, in bytes (SPIFFE-ID, 2.3).
pub(super) const MAX_URI: usize = 2_048;

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const OBJECT_IDENTIFIER: u8 = 0x06;
/// `extensions [3]` of a certificate (RFC 5280, 4.1).
const EXTENSIONS: u8 = 0xa3;
/// `parameters [0]` of a key (RFC 5915, 3).
const CURVE: u8 = 0xa0;
/// `dNSName [2]` (RFC 5280, 4.2.1.6).
const DNS_NAME: u8 = 0x82;
/// `uniformResourceIdentifier [6]`.
const URI: u8 = 0x86;
/// `iPAddress [7]`.
const IP_ADDRESS: u8 = 0x87;

/// `id-ce-subjectAltName`, 2.5.29.17.
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
/// `id-ecPublicKey`, 1.2.840.10045.2.1.
const ECDSA: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
/// `secp521r1`, 1.3.132.0.35.
const P521: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x23];
/// `rsaEncryption`, 1.2.840.113549.1.1.1.
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];

/// Values in DER, one after the other.
struct Values<'a>(&'a [u8]);

impl<'a> Iterator for Values<'a> {
    /// The tag and the contents.
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (tag, rest) = self.0.split_first()?;
        let (first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(*first), rest),
            0x81..=0x84 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                let add = |length, byte: &u8| (length << 8) | usize::from(*byte);
                (bytes.iter().fold(0, add), rest)
            }
            _ => return None,
        };
        let (contents, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((*tag, contents))
    }
}

impl<'a> Values<'a> {
    /// The contents of the next value of this tag.
    fn find_tag(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.find(|value| value.0 == tag).map(|value| value.1)
    }
}

/// The fields of a certificate.
fn fields<'a>(certificate: &'a CertificateDer<'_>) -> Option<Values<'a>> {
    let certificate = Values(certificate).find_tag(SEQUENCE)?;
    Values(certificate).find_tag(SEQUENCE).map(Values)
}

/// The names in a certificate, from its `subjectAltName`.
#[derive(Debug, Default)]
pub(super) struct CertificateNames {
    uris: Vec<String>,
    pub(super) dns: Vec<String>,
    pub(super) addresses: Vec<IpAddr>,
}

impl CertificateNames {
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Self {
        let mut names = Self::default();
        for (tag, contents) in subject_alt_name(certificate).into_iter().flatten() {
            let text = || String::from_utf8_lossy(contents).into_owned();
            match tag {
                URI => names.uris.push(text()),
                DNS_NAME => names.dns.push(text()),
                IP_ADDRESS => names.addresses.extend(address(contents)),
                _ => {}
            }
        }
        names
    }

    /// The URI, if there is exactly one, of a length that counts: with two, the certificate would be of two
    /// peers (X509-SVID, 5.2).
    pub(super) fn uri(&self) -> Option<&str> {
        match &self.uris[..] {
            [uri] if uri.len() <= MAX_URI => Some(uri),
            _ => None,
        }
    }

    /// The number of URIs.
    pub(super) fn uris(&self) -> usize {
        self.uris.len()
    }

    /// The name that tells most: the URI, else the first DNS name, else the first address.
    pub(super) fn first(&self) -> Option<String> {
        let address = || Some(self.addresses.first()?.to_string());
        let uri = self.uri().map(str::to_owned);
        uri.or_else(|| self.dns.first().cloned()).or_else(address)
    }
}

fn subject_alt_name<'a>(certificate: &'a CertificateDer<'_>) -> Option<Values<'a>> {
    let extensions = fields(certificate)?.find_tag(EXTENSIONS)?;
    let extensions = Values(Values(extensions).find_tag(SEQUENCE)?);
    let value = extensions.filter_map(|(_, extension)| {
        let mut extension = Values(extension);
        let is_it = extension.find_tag(OBJECT_IDENTIFIER)? == SUBJECT_ALT_NAME;
        is_it.then(|| extension.find_tag(OCTET_STRING))?
    });
    Values({ value }.next()?).find_tag(SEQUENCE).map(Values)
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}

/// What kind of key it is, in words.
pub(super) fn kind_of_key(key: &PrivateKeyDer<'_>) -> String {
    let kind = match key {
        PrivateKeyDer::Pkcs1(key) => kind_of_rsa(key.secret_pkcs1_der()),
        PrivateKeyDer::Sec1(key) => kind_of_sec1(key.secret_sec1_der()),
        PrivateKeyDer::Pkcs8(key) => kind_of_pkcs8(key.secret_pkcs8_der()),
        _ => None,
    };
    kind.unwrap_or_else(|| "an unknown one".into())
}

/// Of `PrivateKeyInfo` (RFC 5208, 5).
fn kind_of_pkcs8(key: &[u8]) -> Option<String> {
    let mut key = Values(Values(key).find_tag(SEQUENCE)?);
    let mut algorithm = Values(key.find_tag(SEQUENCE)?);
    match algorithm.find_tag(OBJECT_IDENTIFIER)? {
        ECDSA => Some(kind_of_curve(algorithm.find_tag(OBJECT_IDENTIFIER)?)),
        RSA => kind_of_rsa(key.find_tag(OCTET_STRING)?),
        _ => None,
    }
}

/// Of `ECPrivateKey` (RFC 5915, 3).
fn kind_of_sec1(key: &[u8]) -> Option<String> {
    let parameters = Values(Values(key).find_tag(SEQUENCE)?).find_tag(CURVE)?;
    let curve = Values(parameters).find_tag(OBJECT_IDENTIFIER)?;
    Some(kind_of_curve(curve))
}

fn kind_of_curve(curve: &[u8]) -> String {
    match curve {
        P521 => "ECDSA on P-521",
        _ => "ECDSA on another curve",
    }
    .into()
}

/// Of `RSAPrivateKey` (RFC 8017, A.1.2): the version, the modulus, and the rest.
fn kind_of_rsa(key: &[u8]) -> Option<String> {
    let mut integers = Values(Values(key).find_tag(SEQUENCE)?);
    let (_version, modulus) = (integers.next()?, integers.find_tag(INTEGER)?);
    let zeros = modulus.iter().take_while(|byte| **byte == 0).count();
    let unused = usize::try_from(modulus.get(zeros)?.leading_zeros()).ok()?;
    Some(format!(
        "RSA of {} bits",
        (modulus.len() - zeros) * 8 - unused
    ))
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::LazyLock;

    use certs::{Authority, Certificate};
    use proptest::{collection::vec, prelude::*};
    use rustls::pki_types::pem::PemObject;

    use super::*;

    fn certificate(change: impl FnOnce(&mut Certificate)) -> CertificateDer<'static> {
        let mut certificate = Certificate::of_service("service1", "mesh.local");
        change(&mut certificate);
        let authority = Authority::new("test").unwrap();
        let issued = authority.issue(&certificate).unwrap();
        CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap()
    }

    #[test]
    fn all_names_of_a_certificate_are_read() {
        let addresses = ["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()];
        let all = CertificateNames::of(&certificate(|it| it.addresses = addresses.to_vec()));
        assert_eq!(all.uri(), Some("spiffe://mesh.local/service1"));
        assert_eq!(all.dns, ["service1", "localhost"]);
        assert_eq!(all.addresses, addresses);
        assert_eq!(all.first().as_deref(), all.uri());

        let only_addresses = CertificateNames::of(&certificate(|it| {
            (it.uris, it.dns_names) = (Vec::new(), Vec::new());
            it.addresses = addresses.to_vec();
        }));
        assert_eq!(only_addresses.first().as_deref(), Some("127.0.0.1"));

        let none = CertificateNames::of(&certificate(|it| {
            (it.uris, it.dns_names) = Default::default();
        }));
        assert_eq!(none.first(), None);
    }

    #[test]
    fn a_certificate_of_two_uris_or_of_a_long_one_is_of_none() {
        let uri = |name: &str| format!("spiffe://mesh.local/{name}");
        let two = CertificateNames::of(&certificate(|it| it.uris = vec![uri("a"), uri("b")]));
        assert_eq!((two.uri(), two.uris()), (None, 2));
        assert_eq!(two.first().as_deref(), Some("service1"), "its DNS name");
        for (length, is_one) in [(MAX_URI, true), (MAX_URI + 1, false)] {
            let name = "a".repeat(length - uri("").len());
            let long = CertificateNames::of(&certificate(|it| it.uris = vec![uri(&name)]));
            assert_eq!(long.uri().is_some(), is_one, "{length}");
        }
    }

    /// Keys that protect nothing: of openssl, in PKCS #8 and in the older forms.
    pub(in crate::tls) const P521: [&str; 2] = [
        "-----BEGIN PRIVATE KEY-----
MIHuAgEAMBAGByqGSM49AgEGBSuBBAAjBIHWMIHTAgEBBEIAOceGDHDd4R7cLJJc
TknbXYsRbsDqJVngNfAEM679mnL/qtbNyFAs+9Tz9wJbd2ord6glk3pmGREmpibx
lmZFoOKhgYkDgYYABAGz61Ns3/ZgdQX+zrT6IMnQ/+9x9Khkb7P5c6RGNEEN5Qsw
8U7zldDS0h95nVu/MCCLEWaCIFRYNiFVeI+22CbTVAHqjuhPSdWjg/LO1W/dEJVk
68NiwmU8/s4PTkOWQ6b3TKYg5ON6uYGbIY1L7V2pcE7v30waRGM6bYjpQ7QrP6mS
sw==
-----END PRIVATE KEY-----",
        "-----BEGIN EC PRIVATE KEY-----
MIHcAgEBBEIAOceGDHDd4R7cLJJcTknbXYsRbsDqJVngNfAEM679mnL/qtbNyFAs
+9Tz9wJbd2ord6glk3pmGREmpibxlmZFoOKgBwYFK4EEACOhgYkDgYYABAGz61Ns
3/ZgdQX+zrT6IMnQ/+9x9Khkb7P5c6RGNEEN5Qsw8U7zldDS0h95nVu/MCCLEWaC
IFRYNiFVeI+22CbTVAHqjuhPSdWjg/LO1W/dEJVk68NiwmU8/s4PTkOWQ6b3TKYg
5ON6uYGbIY1L7V2pcE7v30waRGM6bYjpQ7QrP6mSsw==
-----END EC PRIVATE KEY-----",
    ];
    pub(in crate::tls) const RSA1024: [&str; 2] = [
        "-----BEGIN PRIVATE KEY-----
MIICdgIBADANBgkqhkiG9w0BAQEFAASCAmAwggJcAgEAAoGBAM+dNNbbhXXMA7/q
rXpss4w68foBhwrGvLexpYd/YsiIohXiXyxcsWFf+iBruBb5RTnrzdpnb2gNH3nR
xYoP+bbvaWvBB3wpIGUGbm1ToN7m1QTL21qllMkBV5OSdImcgFiuMKYTm8rphna+
in89IyNIezrMi86lhhhTpkenIehJAgMBAAECgYAN+Gwn0RnH9XSDI42M4WerlgPW
aOfnZ7wnOEMFPSMuj1Mo2dTBrXMaNFUmfVkj4p4v6ZgujCtI+ykVD3KVecG52H+6
1HBF1ZozN0Be4brX9IW22BPtrITEzTs2PCqRiFXjepCq9iCs4Zg/lSKDLRofrcEF
DXIqtFKOSJ8QsaAoAQJBAPkYHTVs53WdK+oEkkuSS6Sf+0yZDhzLef/BKKcaFf8A
NGtX1TNOUMypYHXBoys/x01s4jDU7lzQdBU2oQTfq8kCQQDVXrJ/WW7cJUA5lBux
dmL/eBA+MsGJdQ9EddMY0VrzGYUtl5hnz+oiI33D2Ehp0PhfykPMoz8b8B7knNp9
hZiBAkAYEB9KOPIHJ57FZZmoWUKbbaT+Gk8FsxZfAY7mzZtQXfmyYPLEmQ0vKDGc
To9vryKWtS0IoJlCOBTus69MZDsZAkAr8hcdd5QHr3xs335crJ9zMo1V4ipOX1fH
p+TUhboPu7/cRg7TwtTcNyceARvY/3tIb2ZLbYv/+xLBzzSJCc0BAkEA6kgh9Vca
demUoIh3vkwMOdvyckkNU0PCDQxd+HJdUiiPHfX5sgX4acHBFvi4WDN97P0OJx+K
vA6IAWi2B5snRQ==
-----END PRIVATE KEY-----",
        "-----BEGIN RSA PRIVATE KEY-----
MIICXAIBAAKBgQDPnTTW24V1zAO/6q16bLOMOvH6AYcKxry3saWHf2LIiKIV4l8s
XLFhX/oga7gW+UU5683aZ29oDR950cWKD/m272lrwQd8KSBlBm5tU6De5tUEy9ta
pZTJAVeTknSJnIBYrjCmE5vK6YZ2vop/PSMjSHs6zIvOpYYYU6ZHpyHoSQIDAQAB
AoGADfhsJ9EZx/V0gyONjOFnq5YD1mjn52e8JzhDBT0jLo9TKNnUwa1zGjRVJn1Z
I+KeL+mYLowrSPspFQ9ylXnBudh/utRwRdWaMzdAXuG61/SFttgT7ayExM07Njwq
kYhV43qQqvYgrOGYP5Uigy0aH63BBQ1yKrRSjkifELGgKAECQQD5GB01bOd1nSvq
BJJLkkukn/tMmQ4cy3n/wSinGhX/ADRrV9UzTlDMqWB1waMrP8dNbOIw1O5c0HQV
NqEE36vJAkEA1V6yf1lu3CVAOZQbsXZi/3gQPjLBiXUPRHXTGNFa8xmFLZeYZ8/q
IiN9w9hIadD4X8pDzKM/G/Ae5JzafYWYgQJAGBAfSjjyByeexWWZqFlCm22k/hpP
BbMWXwGO5s2bUF35smDyxJkNLygxnE6Pb68ilrUtCKCZQjgU7rOvTGQ7GQJAK/IX
HXeUB698bN9+XKyfczKNVeIqTl9Xx6fk1IW6D7u/3EYO08LU3DcnHgEb2P97SG9m
S22L//sSwc80iQnNAQJBAOpIIfVXGnXplKCId75MDDnb8nJJDVNDwg0MXfhyXVIo
jx31+bIF+GnBwRb4uFgzfez9DicfirwOiAFotgebJ0U=
-----END RSA PRIVATE KEY-----",
    ];

    #[test]
    fn the_kind_of_a_key_is_told() {
        let kind = |pem: &str| kind_of_key(&PrivateKeyDer::from_pem_slice(pem.as_bytes()).unwrap());
        assert_eq!(P521.map(kind), ["ECDSA on P-521"; 2]);
        assert_eq!(RSA1024.map(kind), ["RSA of 1024 bits"; 2]);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in vec(any::<u8>(), 0..64), cut in 0..600_usize, place in 0..600_usize) {
            static GOOD: LazyLock<CertificateDer<'_>> = LazyLock::new(|| certificate(|_| {}));
            let _ = CertificateNames::of(&CertificateDer::from(bytes.clone()));
            let mut broken = GOOD.to_vec();
            broken.truncate(cut);
            for (at, byte) in broken.iter_mut().skip(place).zip(&bytes) {
                *at = *byte;
            }
            let broken = CertificateDer::from(broken);
            let _ = CertificateNames::of(&broken);
            let _ = (kind_of_pkcs8(&broken), kind_of_sec1(&broken), kind_of_rsa(&broken));
            let _ = (kind_of_pkcs8(&bytes), kind_of_sec1(&bytes), kind_of_rsa(&bytes));
        }
    }
}
