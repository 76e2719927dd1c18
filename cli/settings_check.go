package cli

import (
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/socketplane/socketplane/agent"
	"github.com/socketplane/socketplane/agent/api"
	"github.com/socketplane/socketplane/agent/nat"
)

// orEmpty also accepts the empty text, which means that the value is not set.
func orEmpty(check func(string) error) func(string) error {
	return func(s string) error {
		if s == "" {
			return nil
		}
		return check(s)
	}
}

func checkHostName(s string) error {
	if s == "" {
		return errors.New("is empty; give the host a name")
	}
	if err := api.CheckContainerName(s); err != nil {
		return fmt.Errorf("%q must be letters, digits, '_', '.' or '-', and begin with a letter or digit", s)
	}
	return nil
}

func checkInterface(s string) error { return api.CheckIfName(s) }

// checkInterfaces accepts a list of interface names.
func checkInterfaces(s string) error {
	for _, one := range list(s) {
		if !nat.IsUplinkName(one) {
			return fmt.Errorf("%q is not an interface name", one)
		}
	}
	return nil
}

func checkAbs(s string) error {
	switch {
	case strings.ContainsRune(s, 0):
		return fmt.Errorf("%q holds a NUL", s)
	case !filepath.IsAbs(s):
		return fmt.Errorf("%q is not an absolute path", s)
	}
	return nil
}

// checkSocket also bounds the length, because sun_path has 108 bytes with its NUL, see
// unix(7).
func checkSocket(s string) error {
	if err := checkAbs(s); err != nil {
		return err
	}
	if len(s) > 107 {
		return fmt.Errorf("%q is %d bytes long; a unix socket's path has at most 107", s, len(s))
	}
	return nil
}

func checkConsul(s string) error {
	u, err := url.Parse(s)
	if err == nil && u.Scheme == "unix" && u.Host == "" && u.RawQuery == "" && u.Fragment == "" {
		return checkSocket(u.Path)
	}
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") || strings.Trim(u.Path, "/") != "" || u.User != nil {
		return fmt.Errorf("%q is not Consul's URL; write it like http://127.0.0.1:8500 or unix:///run/consul.sock", s)
	}
	return nil
}

// checkToken rejects tokens that an HTTP header cannot contain. The error never contains
// the token.
func checkToken(s string) error {
	if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return errors.New("holds control characters")
	}
	return nil
}

func checkOneOf(allowed ...string) func(string) error {
	return func(s string) error {
		var shown []string
		for _, a := range allowed {
			if s == a {
				return nil
			}
			if a != "" {
				shown = append(shown, a)
			}
		}
		return fmt.Errorf("%q is none of %s", s, strings.Join(shown, ", "))
	}
}

// checkTTL accepts the session TTLs that Consul accepts: 10 s to 86400 s.
func checkTTL(s string) error {
	d, err := time.ParseDuration(s)
	if err != nil || d < 10*time.Second || d > 24*time.Hour {
		return fmt.Errorf("%q is out of range; Consul takes 10s to 24h", s)
	}
	return nil
}

// list splits a setting with several values.
func list(s string) []string { return strings.FieldsFunc(s, func(r rune) bool { return r == ',' }) }

// checkPublic accepts a list of subnets that networks can have.
func checkPublic(s string) error {
	for _, one := range list(s) {
		if _, err := api.ParseSubnet(one); err != nil {
			return err
		}
	}
	return nil
}

// checkRoutes accepts a list of prefixes that routes through containers can have.
func checkRoutes(s string) error {
	for _, one := range list(s) { // one by one, because the list may be longer than that of one container
		if _, err := api.ParseAllowed([]string{one}); err != nil {
			return err
		}
	}
	return nil
}

// checkMetadata accepts a list of network names.
func checkMetadata(s string) error {
	for _, one := range list(s) {
		if err := api.CheckNetworkName(one); err != nil && one != "*" {
			return err
		}
	}
	return nil
}

// maxWait bounds the waits for a dead host: more than a year.
const maxWait = 10000 * time.Hour

// checkWait returns a check that accepts durations from least to maxWait.
func checkWait(least time.Duration) func(string) error {
	return func(s string) error {
		d, err := time.ParseDuration(s)
		if err != nil || d < least || d > maxWait {
			return fmt.Errorf("%q is out of range; give %v to %v", s, least, maxWait)
		}
		return nil
	}
}

// allowed returns what the settings allow networks on this host.
func (s *Settings) allowed() (agent.Allowed, error) {
	allowed := agent.Allowed{Metadata: s.Network.AllowMetadata}
	for _, one := range s.Network.AllowPublic {
		p, err := api.ParseSubnet(one)
		if err != nil {
			return agent.Allowed{}, fmt.Errorf("network.allow_public: %w", err)
		}
		allowed.Public = append(allowed.Public, p)
	}
	for _, one := range s.Network.AllowRoutes {
		p, err := api.ParseAllowed([]string{one})
		if err != nil {
			return agent.Allowed{}, fmt.Errorf("network.allow_routes: %w", err)
		}
		allowed.Routes = append(allowed.Routes, p...)
	}
	return allowed, nil
}

// checkTogether checks settings that depend on each other.
func checkTogether(s *Settings) error {
	switch {
	case s.Consul.Token != "" && s.Consul.TokenFile != "":
		return errors.New("consul.token and consul.token_file are both set; choose one")
	case (s.Consul.CertFile == "") != (s.Consul.KeyFile == ""):
		return errors.New("consul.cert_file and consul.key_file belong together; set both or none")
	}
	return checkProxy(s)
}
