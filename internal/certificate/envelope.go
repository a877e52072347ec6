package certificate

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
)

// ErrSignature is wrapped when a signature does not verify with the key at hand.
var ErrSignature = errors.New("signature is not valid")

// payloadType of both kinds of statement.
const payloadType = "application/vnd.in-toto+json"

// envelope is DSSE v1 (github.com/secure-systems-lab/dsse).
type envelope struct {
	Payload     string      `json:"payload"`
	PayloadType string      `json:"payloadType"`
	Signatures  []signature `json:"signatures"`
}

type signature struct {
	Sig   string `json:"sig"`
	KeyID string `json:"keyid"`
}

// pae is the pre-authentication encoding: what is signed.
func pae(kind string, payload []byte) []byte {
	b := []byte("DSSEv1 ")
	b = append(strconv.AppendInt(b, int64(len(kind)), 10), ' ')
	b = append(append(b, kind...), ' ')
	b = append(strconv.AppendInt(b, int64(len(payload)), 10), ' ')
	return append(b, payload...)
}

// seal signs payload; keyID is what the signature says of its key.
func (k *Key) seal(payload []byte, keyID string) (envelope, error) {
	sig, err := k.sign(pae(payloadType, payload))
	if err != nil {
		return envelope{}, fmt.Errorf("sign: %w", err)
	}
	return envelope{
		Payload: base64.StdEncoding.EncodeToString(payload), PayloadType: payloadType,
		Signatures: []signature{{Sig: base64.StdEncoding.EncodeToString(sig), KeyID: keyID}},
	}, nil
}

// open verifies the envelope and returns its payload.
func (e envelope) open(p *PublicKey) ([]byte, error) {
	if e.PayloadType != payloadType {
		return nil, fmt.Errorf("payload type is %q, want %q", e.PayloadType, payloadType)
	}
	if len(e.Signatures) != 1 {
		return nil, fmt.Errorf("%w: %d signatures, want one", ErrSignature, len(e.Signatures))
	}
	payload, err := base64.StdEncoding.Strict().DecodeString(e.Payload)
	if err != nil {
		return nil, fmt.Errorf("payload: %w", err)
	}
	sig, err := base64.StdEncoding.Strict().DecodeString(e.Signatures[0].Sig)
	if err != nil {
		return nil, fmt.Errorf("signature: %w", err)
	}
	if !p.verify(pae(e.PayloadType, payload), sig) {
		return nil, fmt.Errorf("%w with key %s", ErrSignature, p.ID()[:16])
	}
	return payload, nil
}

// decodeStrict reads exactly one JSON value without unknown fields.
func decodeStrict(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more than one JSON value")
	}
	return nil
}

// readFile reads a file of at most limit bytes.
func readFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%s is longer than %d bytes", path, limit)
	}
	return b, nil
}
