package gguf

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// header is a parsed one: metadata in file order, tensors in file order.
type header struct {
	metadata  Metadata
	infos     []Info
	index     map[string]int
	alignment int64
	data      int64 // where the tensors begin
}

// parser reads a header front to back and knows where it is. The first error
// sticks in no field: every method returns it.
type parser struct {
	file        string
	size        int64 // of the file
	off         int64
	r           *bufio.Reader
	key, tensor string // being read, for messages
}

func (p *parser) fail(format string, a ...any) error { return p.failAt(p.off, format, a...) }

func (p *parser) failAt(off int64, format string, a ...any) error {
	return &FormatError{File: p.file, Key: p.key, Tensor: p.tensor, Offset: off, Reason: fmt.Sprintf(format, a...)}
}

// left is how many bytes of the file have not been read.
func (p *parser) left() int64 { return p.size - p.off }

// bytes reads n bytes, n already held against left.
func (p *parser) bytes(n int64) ([]byte, error) {
	if n > p.left() {
		return nil, p.fail("%d bytes are wanted, the file has %d left: truncated", n, p.left())
	}
	if p.off+n > MaxMetadata {
		return nil, p.fail("the metadata and tensor descriptions are larger than %d bytes", MaxMetadata)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(p.r, b); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, p.fail("the file became shorter while it was read")
		}
		return nil, fmt.Errorf("%s: read byte %d: %w", p.file, p.off, err)
	}
	p.off += n
	return b, nil
}

func (p *parser) uint32() (uint32, error) {
	b, err := p.bytes(4)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint32(b), nil
}

func (p *parser) uint64() (uint64, error) {
	b, err := p.bytes(8)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint64(b), nil
}

func (p *parser) text(most int) (string, error) {
	at := p.off
	n, err := p.uint64()
	if err != nil {
		return "", err
	}
	if n > uint64(most) {
		return "", p.failAt(at, "a string of %d bytes, more than %d", n, most)
	}
	if int64(n) > p.left() {
		return "", p.failAt(at, "a string of %d bytes, but the file has %d left: truncated", n, p.left())
	}
	b, err := p.bytes(int64(n))
	return string(b), err
}

// parseHeader reads the header of a file of size bytes.
func parseHeader(file string, r io.Reader, size int64) (*header, error) {
	p := &parser{file: file, size: size, r: bufio.NewReaderSize(r, 1<<16)}
	tensors, keys, err := p.preamble()
	if err != nil {
		return nil, err
	}
	h := &header{alignment: defaultAlignment}
	if h.metadata, err = p.metadata(keys); err != nil {
		return nil, err
	}
	if h.alignment, err = alignmentOf(h.metadata); err != nil {
		p.key = alignmentKey
		return nil, p.fail("%v", err)
	}
	offsets, err := p.descriptions(h, tensors)
	if err != nil {
		return nil, err
	}
	return h, p.place(h, offsets)
}

// preamble reads magic, version and the two counts.
func (p *parser) preamble() (tensors, keys uint64, err error) {
	if p.size < headerBytes {
		return 0, 0, p.failAt(p.size, "the file has %d bytes, too few for a GGUF header: truncated", p.size)
	}
	b, err := p.bytes(headerBytes)
	if err != nil {
		return 0, 0, err
	}
	if string(b[:4]) != magic {
		return 0, 0, p.failAt(0, "it begins with %q instead of %q: not a GGUF file", b[:4], magic)
	}
	switch v := binary.LittleEndian.Uint32(b[4:]); {
	case v == version, v == 2: // 2 differs from 3 in nothing that a little-endian file has
	case v&0xffff == 0:
		return 0, 0, p.failAt(4, "version %#x: a big-endian file; only little-endian ones are read", v)
	default:
		return 0, 0, p.failAt(4, "version %d; versions 2 and 3 are read", v)
	}
	tensors, keys = binary.LittleEndian.Uint64(b[8:]), binary.LittleEndian.Uint64(b[16:])
	// A tensor's description takes 24 bytes and a key 13 at the least.
	if tensors > MaxTensors || int64(tensors) > p.left()/24 {
		return 0, 0, p.failAt(8, "%d tensors cannot be: the file has %d bytes left, and at most %d are read", tensors, p.left(), MaxTensors)
	}
	if keys > MaxKeys || int64(keys) > p.left()/13 {
		return 0, 0, p.failAt(16, "%d keys cannot be: the file has %d bytes left, and at most %d are read", keys, p.left(), MaxKeys)
	}
	return tensors, keys, nil
}

func (p *parser) metadata(n uint64) (Metadata, error) {
	m := make(Metadata, 0, n)
	seen := make(map[string]bool, n)
	for range n {
		p.key = ""
		at := p.off
		key, err := p.text(MaxKey)
		if err != nil {
			return nil, err
		}
		p.key = key
		if err := checkName(key, MaxKey); err != nil {
			return nil, p.failAt(at, "%v", err)
		}
		if seen[key] {
			return nil, p.failAt(at, "the key occurs twice")
		}
		seen[key] = true
		k, err := p.kind()
		if err != nil {
			return nil, err
		}
		value, err := p.value(k, 0)
		if err != nil {
			return nil, err
		}
		m = append(m, KV{key, value})
	}
	p.key = ""
	return m, nil
}

func (p *parser) kind() (kind, error) {
	at := p.off
	v, err := p.uint32()
	if err != nil {
		return 0, err
	}
	if !kind(v).known() {
		return 0, p.failAt(at, "unknown value type %d", v)
	}
	return kind(v), nil
}

func (p *parser) value(k kind, depth int) (any, error) {
	switch k {
	case kindString:
		return p.text(MaxString)
	case kindArray:
		return p.array(depth)
	}
	at := p.off
	b, err := p.bytes(kindWidths[k])
	if err != nil {
		return nil, err
	}
	v, err := decodeScalars(k, b, true)
	if err != nil {
		return nil, p.failAt(at, "%v", err)
	}
	return v, nil
}

func (p *parser) array(depth int) (any, error) {
	if depth == MaxDepth {
		return nil, p.fail("arrays nest deeper than %d", MaxDepth)
	}
	k, err := p.kind()
	if err != nil {
		return nil, err
	}
	at := p.off
	n, err := p.uint64()
	if err != nil {
		return nil, err
	}
	if n > uint64(p.left()/kindWidths[k]) {
		return nil, p.failAt(at, "an array of %d elements, but the file has %d bytes left", n, p.left())
	}
	switch k {
	case kindString:
		out := []string{}
		for range n {
			s, err := p.text(MaxString)
			if err != nil {
				return nil, err
			}
			out = append(out, s)
		}
		return out, nil
	case kindArray:
		out := []any{}
		for range n {
			inner, err := p.array(depth + 1)
			if err != nil {
				return nil, err
			}
			out = append(out, inner)
		}
		return out, nil
	}
	at = p.off
	b, err := p.bytes(int64(n) * kindWidths[k])
	if err != nil {
		return nil, err
	}
	v, err := decodeScalars(k, b, false)
	if err != nil {
		return nil, p.failAt(at, "%v", err)
	}
	return v, nil
}

// descriptions reads the tensors' into h, and returns where each begins from
// the start of the data.
func (p *parser) descriptions(h *header, n uint64) ([]uint64, error) {
	h.infos = make([]Info, 0, n)
	h.index = make(map[string]int, n)
	offsets := make([]uint64, 0, n)
	for range n {
		p.tensor = ""
		at := p.off
		name, err := p.text(MaxName)
		if err != nil {
			return nil, err
		}
		p.tensor = name
		if err := checkName(name, MaxName); err != nil {
			return nil, p.failAt(at, "%v", err)
		}
		if _, ok := h.index[name]; ok {
			return nil, p.failAt(at, "the name occurs twice")
		}
		info, err := p.shape(Info{Name: name})
		if err != nil {
			return nil, err
		}
		offset, err := p.uint64()
		if err != nil {
			return nil, err
		}
		h.index[name] = len(h.infos)
		h.infos = append(h.infos, info)
		offsets = append(offsets, offset)
	}
	p.tensor = ""
	return offsets, nil
}

// shape reads dimensions and type.
func (p *parser) shape(info Info) (Info, error) {
	at := p.off
	dims, err := p.uint32()
	if err != nil {
		return info, err
	}
	if dims > MaxDims {
		return info, p.failAt(at, "%d dimensions, more than %d", dims, MaxDims)
	}
	info.Shape = make([]int64, dims)
	for i := range info.Shape {
		d, err := p.uint64()
		if err != nil {
			return info, err
		}
		if d > 1<<62 {
			return info, p.failAt(at, "dimension %d of %d overflows", i, d)
		}
		info.Shape[len(info.Shape)-1-i] = int64(d)
	}
	t, err := p.uint32()
	if err != nil {
		return info, err
	}
	info.Type = Type(t)
	if info.Size, err = size(info.Type, info.Shape); err != nil {
		return info, p.failAt(at, "%v", err)
	}
	return info, nil
}

// place checks the offsets against each other and the file: as llama.cpp does,
// every tensor begins where the one before ends, padded. The last one's padding
// may be missing.
func (p *parser) place(h *header, offsets []uint64) error {
	h.data = pad(p.off, h.alignment)
	next := int64(0)
	end := h.data
	for i := range h.infos {
		info := &h.infos[i]
		p.tensor = info.Name
		switch offset := offsets[i]; {
		case offset%uint64(h.alignment) != 0:
			return p.fail("its data begin at %d, which is no multiple of the alignment %d", offset, h.alignment)
		case offset < uint64(next):
			return p.fail("its data begin at %d and overlap those before, which end at %d", offset, next)
		case offset > uint64(next):
			return p.fail("its data begin at %d and leave a hole after %d", offset, next)
		case info.Size > p.size-h.data-next:
			return p.fail("its %d bytes of data from %d on do not fit the file's %d: truncated", info.Size, h.data+next, p.size)
		}
		info.Offset = h.data + next
		end = info.Offset + info.Size
		next = pad(next+info.Size, h.alignment)
	}
	p.tensor = ""
	if len(h.infos) == 0 {
		end = p.off
	}
	if p.size > max(h.data+next, end) {
		return p.failAt(h.data+next, "%d bytes belong to no tensor", p.size-h.data-next)
	}
	return nil
}
