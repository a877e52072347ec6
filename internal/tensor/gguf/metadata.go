package gguf

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"unicode/utf8"
)

// KV is a key of the metadata and its value: a uint8, int8, uint16, int16,
// uint32, int32, float32, bool, string, uint64, int64 or float64, a slice of one
// of these, or an []any of slices (an array of arrays).
type KV struct {
	Key   string
	Value any
}

// Metadata is a file's, in its order.
type Metadata []KV

// Get finds a key's value.
func (m Metadata) Get(key string) (any, bool) {
	for _, kv := range m {
		if kv.Key == key {
			return kv.Value, true
		}
	}
	return nil, false
}

// Set replaces a key's value where it stands, or adds the key at the end: the
// order that a Python dictionary would have.
func (m *Metadata) Set(key string, value any) {
	for i := range *m {
		if (*m)[i].Key == key {
			(*m)[i].Value = value
			return
		}
	}
	*m = append(*m, KV{key, value})
}

// kind is a value's type as the file spells it.
type kind uint32

const (
	kindUint8 kind = iota
	kindInt8
	kindUint16
	kindInt16
	kindUint32
	kindInt32
	kindFloat32
	kindBool
	kindString
	kindArray
	kindUint64
	kindInt64
	kindFloat64
)

// kindWidths is the least number of bytes that a value takes: a string its
// length, an array its kind and length.
var kindWidths = [...]int64{1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8}

func (k kind) known() bool { return int64(k) < int64(len(kindWidths)) }

// kindOf is the kind of a Go value, and of its elements where it is an array.
func kindOf(value any) (k, element kind, ok bool) {
	switch value.(type) {
	case uint8:
		return kindUint8, 0, true
	case int8:
		return kindInt8, 0, true
	case uint16:
		return kindUint16, 0, true
	case int16:
		return kindInt16, 0, true
	case uint32:
		return kindUint32, 0, true
	case int32:
		return kindInt32, 0, true
	case float32:
		return kindFloat32, 0, true
	case bool:
		return kindBool, 0, true
	case string:
		return kindString, 0, true
	case uint64:
		return kindUint64, 0, true
	case int64:
		return kindInt64, 0, true
	case float64:
		return kindFloat64, 0, true
	}
	element, ok = elementKind(value)
	return kindArray, element, ok
}

func elementKind(value any) (kind, bool) {
	switch value.(type) {
	case []uint8:
		return kindUint8, true
	case []int8:
		return kindInt8, true
	case []uint16:
		return kindUint16, true
	case []int16:
		return kindInt16, true
	case []uint32:
		return kindUint32, true
	case []int32:
		return kindInt32, true
	case []float32:
		return kindFloat32, true
	case []bool:
		return kindBool, true
	case []string:
		return kindString, true
	case []any:
		return kindArray, true
	case []uint64:
		return kindUint64, true
	case []int64:
		return kindInt64, true
	case []float64:
		return kindFloat64, true
	}
	return 0, false
}

// encodeMetadata writes the pairs as the file has them.
func encodeMetadata(w *bytes.Buffer, m Metadata) error {
	seen := make(map[string]bool, len(m))
	for _, kv := range m {
		if err := checkName(kv.Key, MaxKey); err != nil {
			return fmt.Errorf("key %q: %w", kv.Key, err)
		}
		if seen[kv.Key] {
			return fmt.Errorf("key %q: it occurs twice", kv.Key)
		}
		seen[kv.Key] = true
		k, _, ok := kindOf(kv.Value)
		if !ok {
			return fmt.Errorf("key %q: a %T is no value", kv.Key, kv.Value)
		}
		putString(w, kv.Key)
		put(w, uint32(k))
		if err := encodeValue(w, kv.Value, 0); err != nil {
			return fmt.Errorf("key %q: %w", kv.Key, err)
		}
	}
	return nil
}

func encodeValue(w *bytes.Buffer, value any, depth int) error {
	switch v := value.(type) {
	case string:
		if len(v) > MaxString {
			return fmt.Errorf("a string of %d bytes, more than %d", len(v), MaxString)
		}
		putString(w, v)
		return nil
	case bool:
		w.WriteByte(boolByte(v))
		return nil
	case uint8:
		w.WriteByte(v)
		return nil
	}
	k, element, ok := kindOf(value)
	if !ok {
		return fmt.Errorf("a %T is no value", value)
	}
	if k != kindArray {
		return binary.Write(w, binary.LittleEndian, value)
	}
	if depth == MaxDepth {
		return fmt.Errorf("arrays nest deeper than %d", MaxDepth)
	}
	put(w, uint32(element))
	switch v := value.(type) {
	case []string:
		put(w, uint64(len(v)))
		for _, s := range v {
			putString(w, s)
		}
		return nil
	case []any:
		put(w, uint64(len(v)))
		for _, inner := range v {
			if _, ok := elementKind(inner); !ok {
				return fmt.Errorf("a %T in an array of arrays", inner)
			}
			if err := encodeValue(w, inner, depth+1); err != nil {
				return err
			}
		}
		return nil
	}
	put(w, uint64(binary.Size(value)/int(kindWidths[element])))
	return binary.Write(w, binary.LittleEndian, value)
}

func boolByte(v bool) byte {
	if v {
		return 1
	}
	return 0
}

func put[T uint32 | uint64](w *bytes.Buffer, v T) {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], uint64(v))
	w.Write(b[:binary.Size(v)])
}

func putString(w *bytes.Buffer, s string) {
	put(w, uint64(len(s)))
	w.WriteString(s)
}

// checkName is for keys and tensor names.
func checkName(s string, most int) error {
	switch {
	case s == "":
		return fmt.Errorf("the name is empty")
	case len(s) > most:
		return fmt.Errorf("the name has %d bytes, more than %d", len(s), most)
	case !utf8.ValidString(s):
		return fmt.Errorf("the name is not UTF-8")
	case bytes.IndexByte([]byte(s), 0) >= 0:
		return fmt.Errorf("the name has a zero byte in it")
	}
	return nil
}

// decodeScalars decodes values of a kind that is neither string nor array; b has
// a whole number of them. One alone comes as itself, several as a slice.
func decodeScalars(k kind, b []byte, alone bool) (any, error) {
	switch k {
	case kindUint8:
		return decodeAs[uint8](b, alone)
	case kindInt8:
		return decodeAs[int8](b, alone)
	case kindUint16:
		return decodeAs[uint16](b, alone)
	case kindInt16:
		return decodeAs[int16](b, alone)
	case kindUint32:
		return decodeAs[uint32](b, alone)
	case kindInt32:
		return decodeAs[int32](b, alone)
	case kindFloat32:
		return decodeAs[float32](b, alone)
	case kindBool:
		for i, v := range b {
			if v > 1 {
				return nil, fmt.Errorf("element %d is %d; a bool is 0 or 1", i, v)
			}
		}
		return decodeAs[bool](b, alone)
	case kindUint64:
		return decodeAs[uint64](b, alone)
	case kindInt64:
		return decodeAs[int64](b, alone)
	}
	return decodeAs[float64](b, alone)
}

func decodeAs[T any](b []byte, alone bool) (any, error) {
	var one T
	out := make([]T, len(b)/binary.Size(one))
	if _, err := binary.Decode(b, binary.LittleEndian, out); err != nil {
		return nil, err
	}
	if alone {
		return out[0], nil
	}
	return out, nil
}
