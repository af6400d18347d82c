//! The secret that a client and its hub share, and the text that hands it over.
//!
//! `register` on the hub gives the text once; `fs_init(client_id, enrolment)` on the device takes it. A copy of a device
//! that gets an identity of its own derives that identity's key from the one it has, and so does the hub.

use hmac::{Hmac, Mac};
use sha2::Sha256;

/// The key under a client's blobs.
#[derive(Clone, PartialEq, Eq)]
pub struct MacKey(pub [u8; 32]);

impl std::fmt::Debug for MacKey {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("MacKey(…)") // never into a log
    }
}

/// The text is not an enrolment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is not an enrolment text as sync_control.register() gives it (fs1- and 72 hexadecimal digits)")]
pub struct NotAnEnrolment;

const PREFIX: &str = "fs1-";

impl MacKey {
    /// The enrolment text: prefix, key and a four-byte checksum against slips of typing, in hexadecimal.
    pub fn to_enrolment(&self) -> String {
        let check = (xxhash_rust::xxh3::xxh3_64(&self.0) as u32).to_be_bytes();
        format!("{PREFIX}{}{}", crate::value::hex(&self.0), crate::value::hex(&check))
    }

    /// The key in an enrolment text. White space around it and letter case do not matter.
    pub fn from_enrolment(text: &str) -> Result<MacKey, NotAnEnrolment> {
        let digits = text.trim().strip_prefix(PREFIX).ok_or(NotAnEnrolment)?;
        if digits.len() != 72 || !digits.is_ascii() {
            return Err(NotAnEnrolment);
        }
        let mut key = [0u8; 32];
        for (at, byte) in key.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).map_err(|_| NotAnEnrolment)?;
        }
        let key = MacKey(key);
        if key.to_enrolment().eq_ignore_ascii_case(text.trim()) {
            Ok(key)
        } else {
            Err(NotAnEnrolment)
        }
    }

    /// The key of a new identity split off from this one.
    pub fn derive(&self, client_id: &str) -> MacKey {
        let mut mac = self.mac();
        mac.update(b"fieldsync identity\0");
        mac.update(client_id.as_bytes());
        MacKey(mac.finalize().into_bytes().into())
    }

    /// The MAC of some bytes, shortened to 16 (RFC 2104, section 5).
    pub fn sign(&self, bytes: &[u8]) -> [u8; 16] {
        let mut mac = self.mac();
        mac.update(bytes);
        let full: [u8; 32] = mac.finalize().into_bytes().into();
        let mut short = [0; 16];
        short.copy_from_slice(&full[..16]);
        short
    }

    /// Whether the MAC fits the bytes; takes the same time for any wrong MAC.
    pub fn verifies(&self, bytes: &[u8], mac: &[u8; 16]) -> bool {
        let mut own = self.mac();
        own.update(bytes);
        own.verify_truncated_left(mac).is_ok()
    }

    fn mac(&self) -> Hmac<Sha256> {
        Hmac::new_from_slice(&self.0).expect("HMAC takes keys of any length")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enrolment_goes_there_and_back_and_slips_are_noticed() {
        let key = MacKey([7; 32]);
        let text = key.to_enrolment();
        assert_eq!(MacKey::from_enrolment(&format!(" {text}\n")), Ok(key));
        let slip = text.replacen("07", "17", 1);
        assert_eq!(MacKey::from_enrolment(&slip), Err(NotAnEnrolment));
        assert_eq!(MacKey::from_enrolment("fs1-é"), Err(NotAnEnrolment));
    }

    #[test]
    fn a_mac_fits_its_bytes_only() {
        let key = MacKey([1; 32]);
        let mac = key.sign(b"blob");
        assert!(key.verifies(b"blob", &mac));
        assert!(!key.verifies(b"blab", &mac));
        assert!(!key.derive("copy").verifies(b"blob", &mac));
    }
}
