// Package mdns announces a host's cluster on the segment of one interface and receives
// the announcements of other hosts. It uses Multicast DNS (RFC 6762) and DNS-SD (RFC
// 6763) over IPv4. The package treats every received message as an unauthenticated hint:
// it limits its size, checks its format, and accepts only announcements of the sender
// itself.
package mdns

import (
	"errors"
	"net/netip"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

// Service is the DNS-SD service name of clusters, unchanged since 2015.
const Service = "_docker._cluster.local."

const (
	// maxPacket is the maximum size of a message (RFC 6762, section 17).
	maxPacket = 9000
	// Limits for reading one message. The package's own messages have one question or
	// four records.
	maxQuestions = 32
	maxRecords   = 64
	maxText      = 512 // bytes of all TXT strings

	// ttl is in seconds. It is the value that RFC 6762, section 10, recommends for
	// records that contain addresses. legacyTTL is the maximum in an answer to a plain
	// DNS query (section 6.7).
	ttl       = 120
	legacyTTL = 10

	cacheFlush = 1 << 15 // bit of the class (RFC 6762, section 10.2)
)

// Announcement is what a host announces about itself.
type Announcement struct {
	Instance string // one DNS label, unique on the segment
	Addr     netip.Addr
	Port     uint16
	Text     []string
}

// message is the relevant content of an mDNS message.
type message struct {
	id       uint16
	response bool
	asks     bool          // contains a question for Service
	known    []string      // of a query: instances that the sender knows already
	found    *Announcement // of a response
}

var (
	errOther     = errors.New("the message is about no cluster")
	errMalformed = errors.New("the message is malformed")
)

// question packs a query for the hosts that announce Service.
func question() ([]byte, error) {
	name, err := dnsmessage.NewName(Service)
	if err != nil {
		return nil, err
	}
	m := dnsmessage.Message{Questions: []dnsmessage.Question{{Name: name, Type: dnsmessage.TypePTR, Class: dnsmessage.ClassINET}}}
	return m.Pack()
}

// answer packs an announcement. A life of 0 seconds is a goodbye. legacy is the plain DNS
// query to answer, whose ID and question the answer repeats; nil: none.
func (a Announcement) answer(life uint32, legacy *message) ([]byte, error) {
	service, err := dnsmessage.NewName(Service)
	if err != nil {
		return nil, err
	}
	instance, err := dnsmessage.NewName(a.Instance + "." + Service)
	if err != nil {
		return nil, err
	}
	host, err := dnsmessage.NewName(a.Instance + ".local.")
	if err != nil {
		return nil, err
	}
	m := dnsmessage.Message{Header: dnsmessage.Header{Response: true, Authoritative: true}}
	unique := dnsmessage.Class(dnsmessage.ClassINET | cacheFlush)
	if legacy != nil {
		m.ID, unique, life = legacy.id, dnsmessage.ClassINET, min(life, legacyTTL)
		m.Questions = []dnsmessage.Question{{Name: service, Type: dnsmessage.TypePTR, Class: dnsmessage.ClassINET}}
	}
	m.Answers = []dnsmessage.Resource{{
		Header: dnsmessage.ResourceHeader{Name: service, Class: dnsmessage.ClassINET, TTL: life},
		Body:   &dnsmessage.PTRResource{PTR: instance},
	}}
	m.Additionals = []dnsmessage.Resource{
		{Header: dnsmessage.ResourceHeader{Name: instance, Class: unique, TTL: life}, Body: &dnsmessage.SRVResource{Port: a.Port, Target: host}},
		{Header: dnsmessage.ResourceHeader{Name: instance, Class: unique, TTL: life}, Body: &dnsmessage.TXTResource{TXT: a.Text}},
		{Header: dnsmessage.ResourceHeader{Name: host, Class: unique, TTL: life}, Body: &dnsmessage.AResource{A: a.Addr.As4()}},
	}
	return m.Pack()
}

// read extracts the content about Service from a message. It takes only the first
// instance of a response, because a host may announce only itself.
func read(packet []byte) (message, error) {
	var p dnsmessage.Parser
	h, err := p.Start(packet)
	if err != nil {
		return message{}, errMalformed
	}
	// RFC 6762, section 18: messages with another opcode or response code are ignored
	// silently.
	if h.OpCode != 0 || h.RCode != 0 {
		return message{}, errOther
	}
	m := message{id: h.ID, response: h.Response}
	for n := 0; ; n++ {
		q, err := p.Question()
		if errors.Is(err, dnsmessage.ErrSectionDone) {
			break
		}
		if err != nil || n == maxQuestions {
			return message{}, errMalformed
		}
		m.asks = m.asks || isService(q.Name) && (q.Type == dnsmessage.TypePTR || q.Type == dnsmessage.TypeALL) &&
			q.Class&^cacheFlush == dnsmessage.ClassINET
	}
	if !m.response && !m.asks {
		return message{}, errOther
	}
	r, err := readRecords(&p)
	if err != nil {
		return message{}, err
	}
	if m.response {
		m.found = r.announcement()
		if m.found == nil {
			return message{}, errOther
		}
		return m, nil
	}
	for _, i := range r.instances {
		if i.life >= ttl/2 {
			m.known = append(m.known, i.name)
		}
	}
	return m, nil
}

func isService(n dnsmessage.Name) bool { return strings.EqualFold(n.String(), Service) }

// records are the records of one message that may describe an instance.
type records struct {
	instances []instance
	srv       map[string]dnsmessage.SRVResource // by name in lower case
	txt       map[string][]string
	a         map[string][4]byte
}

type instance struct {
	name string // in lower case
	life uint32 // seconds
}

func readRecords(p *dnsmessage.Parser) (records, error) {
	r := records{srv: map[string]dnsmessage.SRVResource{}, txt: map[string][]string{}, a: map[string][4]byte{}}
	n := 0
	for _, section := range []struct {
		next func() (dnsmessage.ResourceHeader, error)
		skip func() error
	}{
		{p.AnswerHeader, p.SkipAnswer}, {p.AuthorityHeader, p.SkipAuthority}, {p.AdditionalHeader, p.SkipAdditional},
	} {
		for {
			h, err := section.next()
			if errors.Is(err, dnsmessage.ErrSectionDone) {
				break
			}
			if n++; err != nil || n > maxRecords {
				return records{}, errMalformed
			}
			if err := r.take(p, h, section.skip); err != nil {
				return records{}, errMalformed
			}
		}
	}
	return r, nil
}

// take reads the record after its header. The first record of each kind and name wins.
func (r *records) take(p *dnsmessage.Parser, h dnsmessage.ResourceHeader, skip func() error) error {
	name := strings.ToLower(h.Name.String())
	if h.Class&^cacheFlush != dnsmessage.ClassINET {
		return skip()
	}
	switch h.Type {
	case dnsmessage.TypePTR:
		body, err := p.PTRResource()
		if err == nil && isService(h.Name) {
			r.instances = append(r.instances, instance{strings.ToLower(body.PTR.String()), h.TTL})
		}
		return err
	case dnsmessage.TypeSRV:
		body, err := p.SRVResource()
		if _, have := r.srv[name]; err == nil && !have {
			r.srv[name] = body
		}
		return err
	case dnsmessage.TypeTXT:
		body, err := p.TXTResource()
		if _, have := r.txt[name]; err == nil && !have && size(body.TXT) <= maxText {
			r.txt[name] = body.TXT
		}
		return err
	case dnsmessage.TypeA:
		body, err := p.AResource()
		if _, have := r.a[name]; err == nil && !have {
			r.a[name] = body.A
		}
		return err
	}
	return skip()
}

func size(texts []string) int {
	n := 0
	for _, t := range texts {
		n += len(t)
	}
	return n
}

// announcement returns the instance if the records describe it completely. It returns nil
// if they do not, or if the host says goodbye.
func (r *records) announcement() *Announcement {
	if len(r.instances) == 0 || r.instances[0].life == 0 {
		return nil
	}
	name := r.instances[0].name
	label, ok := strings.CutSuffix(name, "."+Service)
	srv, haveSRV := r.srv[name]
	txt, haveTXT := r.txt[name]
	a, haveA := r.a[strings.ToLower(srv.Target.String())]
	if !ok || !haveSRV || !haveTXT || !haveA {
		return nil
	}
	return &Announcement{Instance: label, Addr: netip.AddrFrom4(a), Port: srv.Port, Text: txt}
}
