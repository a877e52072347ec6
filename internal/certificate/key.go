package certificate

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"tarbert/internal/store"
)

// Key signs.
type Key struct {
	private *ecdsa.PrivateKey
	public  *PublicKey
}

// PublicKey verifies.
type PublicKey struct {
	key *ecdsa.PublicKey
	der []byte // SubjectPublicKeyInfo
}

// mostKey is the largest key file read, in bytes.
const mostKey = 64 << 10

// LoadOrCreateKey reads the private key at path (PEM, SEC1 or PKCS #8), or
// generates an ECDSA P-256 key there, mode 0600, with its public half beside
// it (PublicPath). Two processes that come first at once get the same key.
func LoadOrCreateKey(path string) (*Key, error) {
	k, err := LoadKey(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := createKey(path); err != nil {
			return nil, fmt.Errorf("create key %s: %w", path, err)
		}
		k, err = LoadKey(path)
	}
	if err != nil {
		return nil, err
	}
	want := k.public.pem()
	if have, err := os.ReadFile(PublicPath(path)); err != nil || string(have) != string(want) {
		if err := store.WriteFile(PublicPath(path), want, 0o644); err != nil {
			return nil, fmt.Errorf("write public key: %w", err)
		}
	}
	return k, nil
}

// PublicPath is where the public half of the key at path is: release.key has release.pub.
func PublicPath(path string) string { return strings.TrimSuffix(path, filepath.Ext(path)) + ".pub" }

func createKey(path string) error {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		return err
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(dir, ".key-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) //nolint:errcheck // the link below is what counts
	_, err = tmp.Write(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))
	if err := errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	// A link fails if the name is taken: whoever came first has made the key.
	if err := os.Link(tmp.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// LoadKey reads a private key that only its owner may read.
func LoadKey(path string) (*Key, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("private key: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("private key %s can be read by others (mode %04o): run chmod 600 %s", path, info.Mode().Perm(), path)
	}
	block, err := readPEM(path)
	if err != nil {
		return nil, fmt.Errorf("private key: %w", err)
	}
	private, err := x509.ParseECPrivateKey(block.Bytes)
	if err != nil {
		any, pkcs8 := x509.ParsePKCS8PrivateKey(block.Bytes)
		if pkcs8 != nil {
			return nil, fmt.Errorf("private key %s: %w", path, err)
		}
		var ok bool
		if private, ok = any.(*ecdsa.PrivateKey); !ok {
			return nil, fmt.Errorf("private key %s is a %T, not ECDSA", path, any)
		}
	}
	public, err := newPublic(&private.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("private key %s: %w", path, err)
	}
	return &Key{private, public}, nil
}

// Public is the key's public half.
func (k *Key) Public() *PublicKey { return k.public }

func (k *Key) sign(message []byte) ([]byte, error) {
	digest, err := k.public.hash(message)
	if err != nil {
		return nil, err
	}
	return ecdsa.SignASN1(rand.Reader, k.private, digest)
}

// LoadPublicKey reads a PEM public key: P-256, P-384 or P-521.
func LoadPublicKey(path string) (*PublicKey, error) {
	block, err := readPEM(path)
	if err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	any, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("public key %s: %w", path, err)
	}
	key, ok := any.(*ecdsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("public key %s is a %T, not ECDSA", path, any)
	}
	p, err := newPublic(key)
	if err != nil {
		return nil, fmt.Errorf("public key %s: %w", path, err)
	}
	return p, nil
}

func readPEM(path string) (*pem.Block, error) {
	b, err := readFile(path, mostKey)
	if err != nil {
		return nil, err
	}
	for {
		block, rest := pem.Decode(b)
		switch {
		case block == nil:
			return nil, fmt.Errorf("%s holds no PEM key", path)
		case block.Type != "EC PARAMETERS": // openssl writes these before the key
			return block, nil
		}
		b = rest
	}
}

func newPublic(key *ecdsa.PublicKey) (*PublicKey, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, err
	}
	p := &PublicKey{key, der}
	_, err = p.hash(nil)
	return p, err
}

// ID is the key's name: hex sha256 of its SubjectPublicKeyInfo.
func (p *PublicKey) ID() string {
	sum := sha256.Sum256(p.der)
	return hex.EncodeToString(sum[:])
}

func (p *PublicKey) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: p.der})
}

// hint is model_signing's name of the key: hex sha256 of the PEM text.
func (p *PublicKey) hint() string {
	sum := sha256.Sum256(p.pem())
	return hex.EncodeToString(sum[:])
}

// hash digests with the hash that goes with the curve.
func (p *PublicKey) hash(message []byte) ([]byte, error) {
	h := map[elliptic.Curve]crypto.Hash{
		elliptic.P256(): crypto.SHA256, elliptic.P384(): crypto.SHA384, elliptic.P521(): crypto.SHA512,
	}[p.key.Curve]
	if h == 0 {
		return nil, fmt.Errorf("curve %s is not supported: use P-256", p.key.Params().Name)
	}
	d := h.New()
	d.Write(message) // a hash's Write does not fail
	return d.Sum(nil), nil
}

func (p *PublicKey) verify(message, signature []byte) bool {
	digest, err := p.hash(message)
	return err == nil && ecdsa.VerifyASN1(p.key, digest, signature)
}
