{{/* Pieces of network policies. */}}

{{/* (list $ part…): the pods of these parts, as peers. */}}
{{- define "tally.peers" -}}
{{- $root := first . -}}
{{- range rest . }}
- podSelector:
    matchLabels:
      {{- include "tally.selector" (list $root .) | nindent 6 }}
{{- end }}
{{- end -}}

{{/* (list cidr…): addresses, as peers. */}}
{{- define "tally.addresses" -}}
{{- range . }}
- ipBlock:
    cidr: {{ . }}
{{- end }}
{{- end -}}

{{/* (list port…): TCP ports. */}}
{{- define "tally.ports" -}}
{{- range . }}
- protocol: TCP
  port: {{ int . }}
{{- end }}
{{- end -}}

{{/* (list cidrs ports): a way out to these addresses. None is no way: a rule without peers would lead everywhere. */}}
{{- define "tally.toAddresses" -}}
{{- if first . }}
- to:
    {{- include "tally.addresses" (first .) | nindent 4 }}
  ports:
    {{- include "tally.ports" (last .) | nindent 4 }}
{{- end }}
{{- end -}}

{{/* Names are resolved. */}}
{{- define "tally.toDNS" -}}
{{- with .Values.networkPolicy.dnsTo }}
- to:
    {{- toYaml . | nindent 4 }}
  ports:
    - protocol: UDP
      port: 53
    - protocol: TCP
      port: 53
{{- end }}
{{- end -}}

{{/* (list $ name service): a service, and whoever migrates for it, reach its database. */}}
{{- define "tally.toDatabase" -}}
{{- $root := index . 0 -}}
{{- $name := index . 1 -}}
{{- $mode := include "tally.databaseMode" . -}}
{{- if eq $mode "external" }}
{{- include "tally.toAddresses" (list $root.Values.networkPolicy.external.cidrs $root.Values.networkPolicy.external.databasePorts) }}
{{- else }}
- to:
    {{- if eq $mode "bundled" }}
    {{- include "tally.peers" (list $root (printf "%s-database" $name)) | nindent 4 }}
    {{- else }}
    - podSelector:
        matchLabels:
          cnpg.io/cluster: {{ include "tally.database" (list $root $name) }}
    {{- end }}
  ports:
    {{- include "tally.ports" (list 5432) | nindent 4 }}
{{- end }}
{{- end -}}

{{/* (list $ part port…): a way out to these ports of a part. */}}
{{- define "tally.toPart" -}}
- to:
    {{- include "tally.peers" (list (index . 0) (index . 1)) | nindent 4 }}
  ports:
    {{- include "tally.ports" (slice . 2) | nindent 4 }}
{{- end -}}

{{/* (list $ name service): who comes in, at the public port and at the admin port. Nobody is no rule. */}}
{{- define "tally.ingressRules" -}}
{{- $root := index . 0 -}}
{{- $name := index . 1 -}}
{{- $service := index . 2 -}}
{{- $policy := $root.Values.networkPolicy -}}
{{- $public := include "tally.callers" (list $root $name) | fromYamlArray -}}
{{- if $root.Values.tests.enabled -}}
{{- $public = append $public "test" -}}
{{- end -}}
{{- $isPublic := or $service.paths $service.pathPatterns $service.mount -}}
{{- if or $public (and $isPublic $policy.publicFrom) }}
- from:
    {{- include "tally.peers" (concat (list $root) $public) | nindent 4 }}
    {{- if and $isPublic $policy.publicFrom }}
    {{- toYaml $policy.publicFrom | nindent 4 }}
    {{- end }}
  ports:
    {{- include "tally.ports" (list $service.port) | nindent 4 }}
{{- end }}
{{- $isTested := include "tally.disruptive" $root -}}
{{- if or $isTested $policy.metricsFrom }}
- from:
    {{- if $isTested }}
    {{- include "tally.peers" (list $root "test") | nindent 4 }}
    {{- end }}
    {{- with $policy.metricsFrom }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  ports:
    {{- include "tally.ports" (list (add (int $service.port) 1000)) | nindent 4 }}
{{- end }}
{{- end -}}

{{/* Whether the public ports are open to ingress-nginx only, which is the default; empty is no. */}}
{{- define "tally.isForIngress" -}}
{{- $known := list (dict "namespaceSelector" (dict "matchLabels" (dict "kubernetes.io/metadata.name" "ingress-nginx"))) -}}
{{- if deepEqual ($known | toJson) (.Values.networkPolicy.publicFrom | toJson) -}}true{{- end -}}
{{- end -}}

{{/* (list $ name service): the ways out of a service's pods. */}}
{{- define "tally.egress" -}}
{{- $root := index . 0 -}}
{{- $service := index . 2 -}}
{{- $external := $root.Values.networkPolicy.external -}}
{{- include "tally.toDNS" $root }}
{{- range $service.calls }}
{{ include "tally.toPart" (list $root . (get $root.Values.services .).port) }}
{{- end }}
{{- if $service.database }}
{{ include "tally.toDatabase" . }}
{{- end }}
{{- if $service.stream }}
{{- if eq $root.Values.nats.mode "bundled" }}
{{ include "tally.toPart" (list $root "nats" 4222) }}
{{- else }}
{{ include "tally.toAddresses" (list $external.cidrs $external.natsPorts) }}
{{- end }}
{{- end }}
{{- if $service.mail }}
{{- $port := include "tally.mailPort" $root }}
{{- if eq $root.Values.mail.mode "bundled" }}
{{ include "tally.toPart" (list $root "mail" $port) }}
{{- else }}
{{ include "tally.toAddresses" (list $external.cidrs (list $port)) }}
{{- end }}
{{- end }}
{{- if not $root.Values.tokens.jwks }}
{{ include "tally.toAddresses" (list $root.Values.networkPolicy.apiServer.cidrs $root.Values.networkPolicy.apiServer.ports) }}
{{- end }}
{{- if $root.Values.tracing.endpoint }}
{{ include "tally.toAddresses" (list $external.cidrs (list $root.Values.tracing.port)) }}
{{- end }}
{{- with $root.Values.networkPolicy.extraEgress }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* (list $ name service): the ways out of a migration's Job. */}}
{{- define "tally.migrationEgress" -}}
{{- include "tally.toDNS" (index . 0) }}
{{ include "tally.toDatabase" . }}
{{- with (index . 0).Values.networkPolicy.extraEgress }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The class and the certificate of every Ingress. */}}
{{- define "tally.ingress" -}}
{{- with .Values.ingress.className }}
ingressClassName: {{ . }}
{{- end }}
{{- with .Values.ingress.tlsSecret }}
tls:
  - secretName: {{ . }}
    {{- with $.Values.ingress.host }}
    hosts: [{{ . | quote }}]
    {{- end }}
{{- end }}
{{- end -}}

{{/* (list $ path type part): a path of an Ingress. */}}
{{- define "tally.ingressPath" -}}
- path: {{ index . 1 | quote }}
  pathType: {{ index . 2 }}
  backend:
    service:
      name: {{ include "tally.name" (list (first .) (last .)) }}
      port:
        name: http
{{- end -}}
