//! Private keys encrypted with a password: PKCS#8 with PBES2 (RFC 8018), as `openssl genpkey -aes256` writes it.
//!
//! Runs on: the control thread. Nothing of a key or password is ever part of an error.

use std::num::NonZeroU32;

use aws_lc_rs::cipher::{AES_128, AES_192, AES_256, DecryptionContext, PaddedBlockDecryptingKey, UnboundCipherKey};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::pbkdf2;

use super::der::{Der, OCTET_STRING, OID, SEQUENCE};

const PBES2: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x05, 0x0d];
const PBKDF2: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x05, 0x0c];
/// 1.2.840.113549.2.*: HMAC with a hash.
const HMAC: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x02];
/// 2.16.840.1.101.3.4.1.*: AES.
const AES: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x01];

/// An iteration count above this would stall the control thread for seconds: an error instead.
const MAX_ITERATIONS: u32 = 10_000_000;

/// What the encryption header says.
struct Pbes2<'a> {
    salt: &'a [u8],
    iterations: NonZeroU32,
    prf: pbkdf2::Algorithm,
    cipher: &'static aws_lc_rs::cipher::Algorithm,
    key_len: usize,
    iv: &'a [u8],
    ciphertext: &'a [u8],
}

/// The PKCS#8 key inside an `ENCRYPTED PRIVATE KEY`.
///
/// # Errors
/// An algorithm we do not have, or a wrong password; the text never holds a secret.
pub(super) fn decrypt(der: &[u8], password: &[u8]) -> Result<Vec<u8>, &'static str> {
    let header =
        parse(der).ok_or("the key's encryption is not PBES2 with PBKDF2 and AES-CBC: convert it with openssl pkcs8")?;
    let mut key = [0; 32];
    let key = &mut key[..header.key_len];
    pbkdf2::derive(header.prf, header.iterations, header.salt, password, key);
    let iv: [u8; 16] = header.iv.try_into().map_err(|_| "the key's encryption header is malformed")?;
    let cipher = UnboundCipherKey::new(header.cipher, key)
        .and_then(PaddedBlockDecryptingKey::cbc_pkcs7)
        .map_err(|_| "the key's encryption header is malformed")?;
    let mut text = header.ciphertext.to_vec();
    let plain = cipher
        .decrypt(&mut text, DecryptionContext::Iv128(FixedLength::from(&iv)))
        .map_err(|_| "wrong password, or the key is damaged")?
        .to_vec();
    // A wrong password passes the padding check once in 256 times: what comes out must at least be a sequence.
    let mut check = Der::new(&plain);
    check.enter(SEQUENCE).filter(|_| check.is_empty()).ok_or("wrong password, or the key is damaged")?;
    Ok(plain)
}

fn parse(der: &[u8]) -> Option<Pbes2<'_>> {
    let mut outer = Der::new(der).enter(SEQUENCE)?;
    let mut algorithm = outer.enter(SEQUENCE)?;
    let ciphertext = outer.expect(OCTET_STRING)?;
    (algorithm.expect(OID)? == PBES2).then_some(())?;
    let mut params = algorithm.enter(SEQUENCE)?;
    let mut kdf = params.enter(SEQUENCE)?;
    let mut encryption = params.enter(SEQUENCE)?;
    (kdf.expect(OID)? == PBKDF2).then_some(())?;
    let mut kdf = kdf.enter(SEQUENCE)?;
    let salt = kdf.expect(OCTET_STRING)?;
    let iterations = NonZeroU32::new(kdf.small_integer()?).filter(|n| n.get() <= MAX_ITERATIONS)?;
    // The key length is optional, and follows from the cipher.
    let _ = kdf.small_integer();
    let prf = match kdf.enter(SEQUENCE) {
        None => pbkdf2::PBKDF2_HMAC_SHA1,
        Some(mut id) => match id.expect(OID)?.strip_prefix(HMAC)? {
            [7] => pbkdf2::PBKDF2_HMAC_SHA1,
            [9] => pbkdf2::PBKDF2_HMAC_SHA256,
            [10] => pbkdf2::PBKDF2_HMAC_SHA384,
            [11] => pbkdf2::PBKDF2_HMAC_SHA512,
            _ => return None,
        },
    };
    let (cipher, key_len) = match encryption.expect(OID)?.strip_prefix(AES)? {
        [2] => (&AES_128, 16),
        [22] => (&AES_192, 24),
        [42] => (&AES_256, 32),
        _ => return None,
    };
    let iv = encryption.expect(OCTET_STRING)?;
    Some(Pbes2 { salt, iterations, prf, cipher, key_len, iv, ciphertext })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::KeyPair;

    use super::*;

    /// Encrypts a key as the installed openssl does.
    fn openssl_encrypted(pem: &str, args: &[&str]) -> Option<Vec<u8>> {
        use std::io::Write;
        let mut child = std::process::Command::new("openssl")
            .args(["pkcs8", "-topk8", "-outform", "DER", "-passout", "pass:secret"])
            .args(args)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
            .ok()?;
        child.stdin.take()?.write_all(pem.as_bytes()).ok()?;
        let out = child.wait_with_output().ok()?;
        out.status.success().then_some(out.stdout)
    }

    #[test]
    fn decrypts_what_openssl_encrypts() {
        let key = KeyPair::generate().unwrap();
        for args in [
            &[][..],
            &["-v2", "aes-128-cbc", "-v2prf", "hmacWithSHA1"],
            &["-v2", "aes-192-cbc", "-v2prf", "hmacWithSHA512"],
        ] {
            let Some(der) = openssl_encrypted(&key.serialize_pem(), args) else {
                println!("SKIPPED: no openssl here");
                return;
            };
            assert_eq!(decrypt(&der, b"secret").unwrap(), key.serialize_der());
            assert!(decrypt(&der, b"wrong").is_err());
        }
        let scrypt = openssl_encrypted(&key.serialize_pem(), &["-scrypt"]).unwrap();
        assert!(decrypt(&scrypt, b"secret").unwrap_err().contains("PBES2"));
    }

    proptest! {
        #[test]
        fn garbage_is_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(decrypt(&bytes, b"x").is_err());
        }
    }
}
