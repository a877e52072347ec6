package tokenizer

import "unicode/utf8"

// byteRune is the printable character that byte-level vocabularies write for
// byte b (GPT-2's bytes_to_unicode): itself for printable Latin-1, else the
// next unused code point from U+0100.
func byteRune(b byte) rune {
	switch {
	case b >= '!' && b <= '~', b >= 0xA1 && b <= 0xAC, b >= 0xAE:
		return rune(b)
	case b <= ' ': // 0x00–0x20 come first: U+0100–U+0120
		return 0x100 + rune(b)
	case b == 0xAD: // the last one
		return 0x143
	default: // 0x7F–0xA0: U+0121–U+0142
		return 0x121 + rune(b) - 0x7F
	}
}

// runeByte is byteRune's inverse.
func runeByte(r rune) (byte, bool) {
	switch {
	case r >= '!' && r <= '~', r >= 0xA1 && r <= 0xAC, r >= 0xAE && r <= 0xFF:
		return byte(r), true
	case r >= 0x100 && r <= 0x120:
		return byte(r - 0x100), true
	case r >= 0x121 && r <= 0x142:
		return byte(r - 0x121 + 0x7F), true
	case r == 0x143:
		return 0xAD, true
	}
	return 0, false
}

// byteSpelling is the vocabulary's spelling of a string of bytes.
func byteSpelling(s string) string {
	out := make([]byte, 0, len(s)+len(s)/2)
	for i := range len(s) {
		out = utf8.AppendRune(out, byteRune(s[i]))
	}
	return string(out)
}

// tokenBytes is what the ByteLevel decoder writes for a token: the bytes its
// characters stand for, or the token itself where one of them stands for none
// (which is how added tokens such as "<｜end▁of▁sentence｜>" come out whole).
func tokenBytes(token string) []byte {
	out := make([]byte, 0, len(token))
	for _, r := range token {
		b, ok := runeByte(r)
		if !ok {
			return []byte(token)
		}
		out = append(out, b)
	}
	return out
}
