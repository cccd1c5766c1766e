package winrm

import (
	"bytes"
	"crypto/hmac"
	"crypto/md5"
	"crypto/rand"
	"crypto/rc4"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"strings"
	"time"
	"unicode/utf16"

	//lint:ignore SA1019 NTLM is made of it (MS-NLMP 3.3.1)
	"golang.org/x/crypto/md4"
)

// Flags of MS-NLMP 2.2.2.5.
const (
	flagUnicode    = 0x00000001
	flagTarget     = 0x00000004
	flagSign       = 0x00000010
	flagSeal       = 0x00000020
	flagNTLM       = 0x00000200
	flagAlwaysSign = 0x00008000
	flagServer     = 0x00020000
	flagExtended   = 0x00080000
	flagTargetInfo = 0x00800000
	flagVersion    = 0x02000000
	flag128        = 0x20000000
	flagKeyExch    = 0x40000000
	flag56         = 0x80000000
)

// AV_PAIR ids of MS-NLMP 2.2.2.1.
const (
	avEOL       = 0
	avComputer  = 1
	avDomain    = 2
	avTimestamp = 7
	avBindings  = 10
)

const ntlmSignature = "NTLMSSP\x00"

var errNTLM = errors.New("no NTLM message")

// ntlmNegotiate reads a NEGOTIATE_MESSAGE and returns the client's flags.
func ntlmNegotiate(b []byte) (uint32, error) {
	if len(b) < 16 || string(b[:8]) != ntlmSignature || binary.LittleEndian.Uint32(b[8:]) != 1 {
		return 0, errNTLM
	}
	return binary.LittleEndian.Uint32(b[12:]), nil
}

// ntlmChallenge is a CHALLENGE_MESSAGE of a stand-alone server that wants NTLMv2 with extended session security.
func ntlmChallenge(clientFlags uint32, computer string, now time.Time) (message []byte, challenge [8]byte) {
	_, _ = rand.Read(challenge[:]) // never fails
	flags := clientFlags&(flagSign|flagSeal|flagAlwaysSign|flagExtended|flag128|flagKeyExch|flag56|flagNTLM) | flagUnicode | flagTarget | flagServer | flagTargetInfo | flagVersion
	name := utf16Bytes(computer)
	var info bytes.Buffer
	pair := func(id uint16, value []byte) {
		_ = binary.Write(&info, binary.LittleEndian, []uint16{id, uint16(len(value))})
		info.Write(value)
	}
	filetime := make([]byte, 8)
	binary.LittleEndian.PutUint64(filetime, uint64(now.UnixNano()/100+116444736000000000))
	pair(avDomain, name)
	pair(avComputer, name)
	pair(avTimestamp, filetime)
	pair(avEOL, nil)

	var b bytes.Buffer
	le := func(v any) { _ = binary.Write(&b, binary.LittleEndian, v) }
	const header = 56
	b.WriteString(ntlmSignature)
	le(uint32(2))
	le([]uint16{uint16(len(name)), uint16(len(name))})
	le(uint32(header))
	le(flags)
	b.Write(challenge[:])
	b.Write(make([]byte, 8))
	le([]uint16{uint16(info.Len()), uint16(info.Len())})
	le(uint32(header + len(name)))
	b.Write([]byte{10, 0, 0x63, 0x45, 0, 0, 0, 15}) // 10.0.17763, NTLM revision 15
	b.Write(name)
	b.Write(info.Bytes())
	return b.Bytes(), challenge
}

// ntlmResponse is an AUTHENTICATE_MESSAGE.
type ntlmResponse struct {
	flags      uint32
	domain     string
	user       string
	nt         []byte
	sessionKey []byte
	bindings   []byte // the channel binding's MD5, nil when the client sent none
}

func parseAuthenticate(b []byte) (ntlmResponse, error) {
	if len(b) < 64 || string(b[:8]) != ntlmSignature || binary.LittleEndian.Uint32(b[8:]) != 3 {
		return ntlmResponse{}, errNTLM
	}
	field := func(at int) ([]byte, bool) {
		size, offset := int(binary.LittleEndian.Uint16(b[at:])), uint64(binary.LittleEndian.Uint32(b[at+4:]))
		if offset+uint64(size) > uint64(len(b)) {
			return nil, false
		}
		return b[offset : offset+uint64(size)], true
	}
	var r ntlmResponse
	r.flags = binary.LittleEndian.Uint32(b[60:])
	nt, ok1 := field(20)
	domain, ok2 := field(28)
	user, ok3 := field(36)
	key, ok4 := field(52)
	if !ok1 || !ok2 || !ok3 || !ok4 || r.flags&flagUnicode == 0 || len(domain)%2 != 0 || len(user)%2 != 0 {
		return ntlmResponse{}, errNTLM
	}
	r.nt, r.sessionKey, r.domain, r.user = nt, key, utf16String(domain), utf16String(user)
	if len(nt) >= 44 {
		r.bindings = avPair(nt[44:], avBindings)
	}
	return r, nil
}

func avPair(b []byte, want uint16) []byte {
	for len(b) >= 4 {
		id, size := binary.LittleEndian.Uint16(b), int(binary.LittleEndian.Uint16(b[2:]))
		if id == avEOL || len(b) < 4+size {
			return nil
		}
		if id == want {
			return b[4 : 4+size]
		}
		b = b[4+size:]
	}
	return nil
}

// check proves that the client knows the password (NTLMv2, MS-NLMP 3.3.2) and returns the exported session key.
func (r ntlmResponse) check(password string, challenge [8]byte) ([]byte, bool) {
	if len(r.nt) < 16+28 || r.flags&flagExtended == 0 {
		return nil, false
	}
	hash := md4.New()
	_, _ = hash.Write(utf16Bytes(password))
	key := hmacMD5(hash.Sum(nil), utf16Bytes(strings.ToUpper(r.user)+r.domain))
	proof, temp := r.nt[:16], r.nt[16:]
	want := hmacMD5(key, challenge[:], temp)
	if subtle.ConstantTimeCompare(want, proof) != 1 {
		return nil, false
	}
	base := hmacMD5(key, proof)
	if r.flags&flagKeyExch == 0 {
		return base, true
	}
	if len(r.sessionKey) != 16 {
		return nil, false
	}
	exported := make([]byte, 16)
	cipher, err := rc4.NewCipher(base)
	if err != nil {
		return nil, false
	}
	cipher.XORKeyStream(exported, r.sessionKey)
	return exported, true
}

// sealing is one side's half of a session: MS-NLMP 3.4.
type sealing struct {
	flags  uint32
	sign   []byte
	cipher *rc4.Cipher
	number uint32
}

func newSealing(flags uint32, key []byte, from string) (*sealing, error) {
	derive := func(what string, length int) []byte {
		sum := md5.Sum(append(bytes.Clone(key[:length]), "session key to "+from+" "+what+" key magic constant\x00"...))
		return sum[:]
	}
	length := 16
	if flags&flag128 == 0 {
		length = 7
	}
	cipher, err := rc4.NewCipher(derive("sealing", length))
	return &sealing{flags: flags, sign: derive("signing", 16), cipher: cipher}, err
}

// signature is over the plain text; its checksum goes through the cipher after the text when keys were exchanged.
func (s *sealing) signature(text []byte) []byte {
	out := make([]byte, 16)
	binary.LittleEndian.PutUint32(out, 1)
	binary.LittleEndian.PutUint32(out[12:], s.number)
	sum := hmacMD5(s.sign, out[12:16], text)[:8]
	if s.flags&flagKeyExch != 0 {
		s.cipher.XORKeyStream(sum, sum)
	}
	copy(out[4:], sum)
	s.number++
	return out
}

func (s *sealing) seal(text []byte) []byte {
	sealed := make([]byte, len(text))
	s.cipher.XORKeyStream(sealed, text)
	out := binary.LittleEndian.AppendUint32(nil, 16)
	return append(append(out, s.signature(text)...), sealed...)
}

func (s *sealing) open(message []byte) ([]byte, error) {
	if len(message) < 20 || binary.LittleEndian.Uint32(message) != 16 {
		return nil, errors.New("the encrypted message has no signature")
	}
	text := make([]byte, len(message)-20)
	s.cipher.XORKeyStream(text, message[20:])
	if subtle.ConstantTimeCompare(s.signature(text), message[4:20]) != 1 {
		return nil, errors.New("the encrypted message's signature is wrong")
	}
	return text, nil
}

func hmacMD5(key []byte, parts ...[]byte) []byte {
	h := hmac.New(md5.New, key)
	for _, p := range parts {
		_, _ = h.Write(p)
	}
	return h.Sum(nil)
}

func utf16Bytes(text string) []byte {
	var out []byte
	for _, u := range utf16.Encode([]rune(text)) {
		out = binary.LittleEndian.AppendUint16(out, u)
	}
	return out
}

func utf16String(b []byte) string {
	units := make([]uint16, len(b)/2)
	for i := range units {
		units[i] = binary.LittleEndian.Uint16(b[2*i:])
	}
	return string(utf16.Decode(units))
}
