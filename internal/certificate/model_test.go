package certificate

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const sample = "testdata/model-signing"

// copyModel is the sample model in a directory of its own called "model".
func copyModel(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "model")
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(sample, "model"))); err != nil {
		t.Fatal(err)
	}
	return dir
}

func newKey(t *testing.T) *Key {
	t.Helper()
	k, err := LoadOrCreateKey(filepath.Join(t.TempDir(), "keys", "release.key"))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func samplePublic(t *testing.T) *PublicKey {
	t.Helper()
	p, err := LoadPublicKey(filepath.Join(sample, "pub.pem"))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestVerifyWhatTheToolSigned(t *testing.T) {
	if err := VerifyModel(filepath.Join(sample, "model"), filepath.Join(sample, "model.sig"), samplePublic(t)); err != nil {
		t.Error(err)
	}
	if err := VerifyModel(filepath.Join(sample, "model"), filepath.Join(sample, "model.sig"), newKey(t).Public()); !errors.Is(err, ErrSignature) {
		t.Errorf("another key: %v", err)
	}
}

// What we sign is what the tool signs: the same payload to the byte, the same
// bundle but for key and signature.
func TestSignWhatTheToolSigns(t *testing.T) {
	key := newKey(t)
	dir := copyModel(t)
	sig := filepath.Join(t.TempDir(), "model.sig")
	if err := SignModel(dir, sig, key); err != nil {
		t.Fatal(err)
	}
	ours, theirs := readBundle(t, sig), readBundle(t, filepath.Join(sample, "model.sig"))
	want, err := os.ReadFile(filepath.Join(sample, "payload.json"))
	if err != nil {
		t.Fatal(err)
	}
	payload, err := base64.StdEncoding.DecodeString(ours.DSSEEnvelope.Payload)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(payload)); diff != "" {
		t.Errorf("payload (-tool +ours):\n%s", diff)
	}
	if got, want := ours.VerificationMaterial.PublicKey.Hint, key.Public().hint(); got != want {
		t.Errorf("hint %s, want %s", got, want)
	}
	theirs.VerificationMaterial.PublicKey.Hint = ours.VerificationMaterial.PublicKey.Hint
	theirs.DSSEEnvelope.Signatures[0].Sig = ours.DSSEEnvelope.Signatures[0].Sig
	if diff := cmp.Diff(theirs, ours); diff != "" {
		t.Errorf("bundle (-tool +ours):\n%s", diff)
	}
	if err := VerifyModel(dir, sig, key.Public()); err != nil {
		t.Error(err)
	}
	digest, err := ModelDigest(dir)
	if err != nil || digest != "7ce149ad72a40f447ff1bdf8084dfe2247a3d7a1af0379d9551e6b5f393b9bf4" {
		t.Errorf("root digest %s, %v", digest, err)
	}
	if err := SignModel(dir, filepath.Join(dir, "model.sig"), key); err == nil {
		t.Error("a bundle inside its model")
	}
}

func readBundle(t *testing.T, path string) bundle {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out bundle
	if err := decodeStrict(b, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestTamperedModels(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(t *testing.T, dir string) error
		path   string // in the error; "" = must still verify
		what   string
	}{
		{"nothing", func(*testing.T, string) error { return nil }, "", ""},
		{"one byte", func(t *testing.T, dir string) error { return flip(filepath.Join(dir, "weights.bin"), 123) }, "weights.bin", "changed"},
		{"in a folder", func(t *testing.T, dir string) error { return flip(filepath.Join(dir, "sub", "notes.txt"), 0) }, "notes.txt", "changed"},
		{"a byte more", func(t *testing.T, dir string) error {
			return os.WriteFile(filepath.Join(dir, "empty.txt"), []byte{0}, 0o644)
		}, "empty.txt", "changed"},
		{"extra file", func(t *testing.T, dir string) error { return os.WriteFile(filepath.Join(dir, "sub", "a"), nil, 0o644) }, "a", "not signed"},
		{"extra hidden file", func(t *testing.T, dir string) error { return os.WriteFile(filepath.Join(dir, ".env"), nil, 0o644) }, ".env", "not signed"},
		{"missing file", func(t *testing.T, dir string) error { return os.Remove(filepath.Join(dir, "config.json")) }, "config.json", "missing"},
		{"last file missing", func(t *testing.T, dir string) error { return os.Remove(filepath.Join(dir, "weights.bin")) }, "weights.bin", "missing"},
		// The root digest alone would not see this one: the order of the names stays.
		{"renamed in order", func(t *testing.T, dir string) error {
			return os.Rename(filepath.Join(dir, "weights.bin"), filepath.Join(dir, "weights.dat"))
		}, "weights.bin", "missing"},
		{"symbolic link", func(t *testing.T, dir string) error { return os.Symlink("config.json", filepath.Join(dir, "link")) }, "link", "neither a file"},
		{"git folder", func(t *testing.T, dir string) error {
			return errors.Join(os.Mkdir(filepath.Join(dir, ".git"), 0o755), os.WriteFile(filepath.Join(dir, ".git", "HEAD"), nil, 0o644))
		}, "", ""},
		{"the directory's name", func(t *testing.T, dir string) error { return nil }, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := copyModel(t)
			if err := tt.change(t, dir); err != nil {
				t.Fatal(err)
			}
			err := VerifyModel(dir, filepath.Join(sample, "model.sig"), samplePublic(t))
			if tt.path == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.path) || !strings.Contains(err.Error(), tt.what) {
				t.Errorf("got %v, want %s: %s", err, tt.path, tt.what)
			}
		})
	}
}

func flip(path string, at int) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	b[at] ^= 1
	return os.WriteFile(path, b, 0o644)
}

func TestTamperedBundles(t *testing.T) {
	for name, change := range map[string]func(*bundle){
		"media type":   func(b *bundle) { b.MediaType = "application/json" },
		"payload type": func(b *bundle) { b.DSSEEnvelope.PayloadType = "text/plain" },
		"hint":         func(b *bundle) { b.VerificationMaterial.PublicKey.Hint = "00" },
		"signature":    func(b *bundle) { b.DSSEEnvelope.Signatures[0].Sig = "MEQCIFVp" },
		"two": func(b *bundle) {
			b.DSSEEnvelope.Signatures = append(b.DSSEEnvelope.Signatures, b.DSSEEnvelope.Signatures[0])
		},
		"none": func(b *bundle) { b.DSSEEnvelope.Signatures = nil },
		"payload": func(b *bundle) {
			p, _ := base64.StdEncoding.DecodeString(b.DSSEEnvelope.Payload)
			b.DSSEEnvelope.Payload = base64.StdEncoding.EncodeToString(bytes.Replace(p, []byte("config.json"), []byte("confih.json"), 1))
		},
	} {
		b := readBundle(t, filepath.Join(sample, "model.sig"))
		change(&b)
		path := filepath.Join(t.TempDir(), "model.sig")
		text, err := json.Marshal(b)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, text, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := VerifyModel(filepath.Join(sample, "model"), path, samplePublic(t)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// A signed statement that is not what it says is refused even with a good signature.
func TestSignedNonsense(t *testing.T) {
	key := newKey(t)
	payload, err := os.ReadFile(filepath.Join(sample, "payload.json"))
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string][2]string{
		"root digest":  {"7ce149ad", "7ce149ae"},
		"shards":       {`"method": "files"`, `"method": "shards"`},
		"blake3":       {`"hash_type": "sha256"`, `"hash_type": "blake3"`},
		"another kind": {"model_signing/signature", "model_signing/other"},
		"short digest": {"e346432021b0", ""},
	} {
		e, err := key.seal(bytes.Replace(payload, []byte(change[0]), []byte(change[1]), 1), "")
		if err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(bundle{MediaType: bundleMediaType, DSSEEnvelope: e})
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "model.sig")
		if err := os.WriteFile(path, text, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := VerifyModel(filepath.Join(sample, "model"), path, key.Public()); err == nil || errors.Is(err, ErrSignature) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOtherCurves(t *testing.T) {
	for curve, ok := range map[elliptic.Curve]bool{elliptic.P224(): false, elliptic.P384(): true, elliptic.P521(): true} {
		private, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.MarshalPKCS8PrivateKey(private)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "release.key")
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		key, err := LoadOrCreateKey(path)
		if !ok {
			if err == nil {
				t.Errorf("%s was accepted", curve.Params().Name)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		dir, sig := copyModel(t), filepath.Join(t.TempDir(), "model.sig")
		if err := SignModel(dir, sig, key); err != nil {
			t.Fatal(err)
		}
		if err := VerifyModel(dir, sig, key.Public()); err != nil {
			t.Errorf("%s: %v", curve.Params().Name, err)
		}
	}
}

// TestModelSigningTool runs the real tool (PyPI: model-signing 1.1.1 with
// pyopenssl) both ways. TARBERT_MODEL_SIGNING is its command; make interop sets it.
func TestModelSigningTool(t *testing.T) {
	tool := os.Getenv("TARBERT_MODEL_SIGNING")
	if tool == "" {
		t.Skip("TARBERT_MODEL_SIGNING is not set: make interop runs this")
	}
	keyPath := filepath.Join(t.TempDir(), "release.key")
	key, err := LoadOrCreateKey(keyPath)
	if err != nil {
		t.Fatal(err)
	}
	dir, sig := copyModel(t), filepath.Join(t.TempDir(), "model.sig")
	if err := os.WriteFile(filepath.Join(dir, "sub", "größe & <b>.txt"), []byte("ü"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := SignModel(dir, sig, key); err != nil {
		t.Fatal(err)
	}
	verify := func(dir, sig string) ([]byte, error) {
		return exec.CommandContext(t.Context(), tool, "verify", "key", "--public_key", PublicPath(keyPath), "--signature", sig, dir).CombinedOutput()
	}
	if out, err := verify(dir, sig); err != nil {
		t.Errorf("the tool refuses our bundle: %v\n%s", err, out)
	}
	theirs := filepath.Join(t.TempDir(), "theirs.sig")
	if out, err := exec.CommandContext(t.Context(), tool, "sign", "key", "--private_key", keyPath, "--signature", theirs, dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := VerifyModel(dir, theirs, key.Public()); err != nil {
		t.Errorf("we refuse the tool's bundle: %v", err)
	}
	// The tool's order of keys and of ignored paths changes from run to run.
	if diff := cmp.Diff(statementOf(t, theirs), statementOf(t, sig)); diff != "" {
		t.Errorf("statements (-tool +ours):\n%s", diff)
	}
	for name, change := range map[string]func(dir string) error{
		"changed": func(dir string) error { return flip(filepath.Join(dir, "weights.bin"), 7) },
		"extra":   func(dir string) error { return os.WriteFile(filepath.Join(dir, "extra.txt"), nil, 0o644) },
		"missing": func(dir string) error { return os.Remove(filepath.Join(dir, "empty.txt")) },
	} {
		dir, sig := copyModel(t), filepath.Join(t.TempDir(), "model.sig")
		if err := errors.Join(SignModel(dir, sig, key), change(dir)); err != nil {
			t.Fatal(err)
		}
		if out, err := verify(dir, sig); err == nil {
			t.Errorf("the tool accepts a model with a file %s:\n%s", name, out)
		}
	}
}

// statementOf is the bundle's statement, its set of ignored paths in order.
func statementOf(t *testing.T, sig string) modelStatement {
	t.Helper()
	payload, err := base64.StdEncoding.DecodeString(readBundle(t, sig).DSSEEnvelope.Payload)
	if err != nil {
		t.Fatal(err)
	}
	var st modelStatement
	if err := decodeStrict(payload, &st); err != nil {
		t.Fatal(err)
	}
	slices.Sort(st.Predicate.Serialization.IgnorePaths)
	return st
}

func FuzzBundle(f *testing.F) {
	b, err := os.ReadFile(filepath.Join(sample, "model.sig"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"dsseEnvelope":{"signatures":[{}]}}`))
	key, err := LoadPublicKey(filepath.Join(sample, "pub.pem"))
	if err != nil {
		f.Fatal(err)
	}
	want, err := manifest(filepath.Join(sample, "model"), ignored)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(t.TempDir(), "b")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if st, err := openBundle(path, key); err == nil && compare("", st.Predicate.Resources, want) != nil {
			t.Error("another statement verifies with the sample's key")
		}
	})
}
