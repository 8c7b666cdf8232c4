"""Restriction enzymes and the genetic code, from Biopython (REBASE and the NCBI's table 1)."""

from Bio.Data.CodonTable import unambiguous_rna_by_id
from Bio.Data.IUPACData import protein_letters_1to3
from Bio.Restriction.Restriction_Dictionary import rest_dict

from dsmoe.domains.world import Fact

SITE_LENGTH = 6
STANDARD_CODE = 1


def facts() -> list[Fact]:
    """The sites of commercial six-base cutters and the amino acids of the standard code's codons."""
    sites = {
        name: site
        for name, site in sorted((name, str(enzyme["site"])) for name, enzyme in rest_dict.items() if enzyme["suppl"])
        # Ambiguous bases would let two different spellings both be right.
        if len(site) == SITE_LENGTH and set(site) <= set("ACGT")
    }
    codons = unambiguous_rna_by_id[STANDARD_CODE].forward_table
    return [
        *(
            Fact("site", name, f"The restriction enzyme {name} cuts at", site, (f"{name} recognises the site",))
            for name, site in sites.items()
        ),
        *(
            Fact("codon", codon, f"The codon {codon} encodes", protein_letters_1to3[codons[codon]])
            for codon in sorted(codons)
        ),
    ]
