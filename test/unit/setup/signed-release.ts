/**
 * The signed list of a mirror's indices, and the key that signed it, made for these tests; the other half of the
 * key was thrown away. It holds for the `Packages` of `apt-signature.test.ts` only.
 */

export const testKey = `-----BEGIN PGP PUBLIC KEY BLOCK-----

mDMEZ3SFgBYJKwYBBAHaRw8BAQdAZy7vFqfOGPXUxtzqdbx60dCGOEUuFQLw5BAL
w3zaZry0KHZmaW8tY29tcGFuaW9uIHRlc3RzIDx0ZXN0c0BkZWIuZXhhbXBsZT6I
kAQTFggAOBYhBFNe+xky6pgIZLIX+l0Z5zWDLQnKBQJndIWAAhsDBQsJCAcCBhUK
CQgLAgQWAgMBAh4BAheAAAoJEF0Z5zWDLQnK4QQA/2NI6pqZ4cnEqTifODg5mwnm
u772BT0pTwIFuu3MClFzAQCpPCg6rhsd+XfGzyTkyODc+Y8MoMAS9nwNdO7e0LbP
BA==
=728d
-----END PGP PUBLIC KEY BLOCK-----
`;

export const signedRelease = `-----BEGIN PGP SIGNED MESSAGE-----
Hash: SHA512

Origin: Debian
Suite: bookworm
Codename: bookworm
Date: Thu, 01 Jan 2026 00:00:00 UTC
Architectures: amd64
Components: main
SHA256:
 39c190066176f6b1eaef0f424b7dea994fdc8f628350252a3a3ff584e23a8aff 159 main/binary-amd64/Packages
-----BEGIN PGP SIGNATURE-----

iHUEARYKAB0WIQRTXvsZMuqYCGSyF/pdGec1gy0JygUCaVW5AAAKCRBdGec1gy0J
yhyJAQDJ+3v88xC4+4DSXYbTXo25Y2e1NSutLHQ4BUkqctsxFAD/Uqm0GUqsINcw
cJVKhvMTq0xBZACNz2RF5goFdnvG2Qw=
=BYKU
-----END PGP SIGNATURE-----
`;
