package server

import (
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
)

// apiError is an error a client sees, in vLLM's shape.
type apiError struct {
	Message string  `json:"message"`
	Type    string  `json:"type"`
	Param   *string `json:"param"`
	Code    int     `json:"code"`
}

func (e *apiError) Error() string { return e.Message }

// The types that vLLM gives errors. A request that does not have the right
// form is a "Bad Request"; one that asks for something impossible a "BadRequestError".
const (
	badForm     = "Bad Request"
	badRequest  = "BadRequestError"
	notFound    = "NotFoundError"
	overloaded  = "ServiceUnavailableError"
	internal    = "InternalServerError"
	tooLarge    = "RequestEntityTooLarge"
	unsupported = "NotImplementedError"
)

// refuse is a semantic error without a parameter.
func refuse(format string, args ...any) *apiError {
	return &apiError{Message: fmt.Sprintf(format, args...), Type: badRequest, Code: http.StatusBadRequest}
}

// refuseParam is a semantic error about a parameter, without its value.
func refuseParam(param, message string) *apiError {
	e := refuse("%s (parameter=%s)", message, param)
	e.Param = &param
	return e
}

// refuseValue is a semantic error about a parameter's value, printed as Python prints it.
func refuseValue(param string, value any, message string) *apiError {
	e := refuse("%s (parameter=%s, value=%s)", message, param, pyValue(value))
	e.Param = &param
	return e
}

func writeJSON(w http.ResponseWriter, code int, v any) {
	b, err := encode(v)
	if err != nil {
		code = http.StatusInternalServerError
		b = []byte(`{"error":{"message":"the answer could not be encoded","type":"InternalServerError","param":null,"code":500}}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write(b) // the client may be gone: there is nobody to tell
}

func writeError(w http.ResponseWriter, e *apiError) {
	if e.Code == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1")
	}
	writeJSON(w, e.Code, map[string]*apiError{"error": e})
}

// pyValue prints a value as Python's str does.
func pyValue(v any) string {
	switch x := v.(type) {
	case float64:
		return pyFloat(x)
	case bool:
		if x {
			return "True"
		}
		return "False"
	case nil:
		return "None"
	case []int:
		parts := make([]string, len(x))
		for i, n := range x {
			parts[i] = strconv.Itoa(n)
		}
		return "[" + strings.Join(parts, ", ") + "]"
	case []string:
		parts := make([]string, len(x))
		for i, s := range x {
			parts[i] = pyRepr(s)
		}
		return "[" + strings.Join(parts, ", ") + "]"
	}
	return fmt.Sprint(v)
}

// pyFloat is Python's repr of a float.
func pyFloat(f float64) string {
	switch {
	case math.IsInf(f, 1):
		return "inf"
	case math.IsInf(f, -1):
		return "-inf"
	case math.IsNaN(f):
		return "nan"
	}
	if a := math.Abs(f); a != 0 && (a < 1e-4 || a >= 1e16) {
		return strconv.FormatFloat(f, 'e', -1, 64)
	}
	s := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

// pyRepr is Python's repr of a string, for the characters that requests have.
func pyRepr(s string) string {
	quote := byte('\'')
	if strings.Contains(s, "'") && !strings.Contains(s, `"`) {
		quote = '"'
	}
	var b strings.Builder
	b.WriteByte(quote)
	for _, r := range s {
		switch {
		case r == rune(quote) || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case r == '\t':
			b.WriteString(`\t`)
		case r < ' ' || r == 0x7F:
			fmt.Fprintf(&b, `\x%02x`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte(quote)
	return b.String()
}
