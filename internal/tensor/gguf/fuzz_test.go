package gguf

import (
	"bytes"
	"os"
	"testing"
)

// FuzzHeader: whatever the bytes, reading ends without a panic; what is read
// lies inside the file, and is planned again to the same bytes.
func FuzzHeader(f *testing.F) {
	seed, err := os.ReadFile("testdata/kinds.gguf")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add(seed[:200])
	f.Add([]byte("GGUF\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"))
	f.Add([]byte("GGUF\x03\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" +
		"\x01\x00\x00\x00\x00\x00\x00\x00a\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00____"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := parseHeader("x", bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		for _, i := range h.infos {
			if i.Offset < headerBytes || i.Size < 1 || i.Offset+i.Size > int64(len(b)) {
				t.Fatalf("%+v lies outside %d bytes", i, len(b))
			}
		}
		l, err := Plan(h.metadata, h.infos)
		if err != nil {
			t.Fatalf("what was read cannot be planned: %v", err)
		}
		// Version 2 is written as 3.
		n := min(len(l.header), len(b))
		if !bytes.Equal(l.header[8:n], b[8:n]) {
			t.Fatalf("planned again, the header differs:\n%q\n%q", l.header, b[:n])
		}
		for i, info := range l.Infos {
			if info.Offset != h.infos[i].Offset {
				t.Fatalf("%s: planned at %d, read at %d", info.Name, info.Offset, h.infos[i].Offset)
			}
		}
	})
}
