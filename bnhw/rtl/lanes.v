// PE numbers read from one of the two memories, put together from their planes, lowest first. Stage 1 in, stage 2 out.
module lanes #(
    parameter PE = 4,
    parameter SIMD = 16,
    parameter ACT_BITS = 4,
    parameter RESIDUAL_BITS = 16,
    parameter WIDTH = 16
) (
    input clk,
    input valid,
    input plane_first,
    input [5:0] shift,                    // place of the plane
    input memory,                         // 0 activation memory, 1 residual memory
    input [15:0] bank,
    input [SIMD*ACT_BITS-1:0] activations,
    input [PE*RESIDUAL_BITS-1:0] residuals,
    output reg [PE*WIDTH-1:0] numbers
);
    localparam LANE_BITS = ACT_BITS > RESIDUAL_BITS ? ACT_BITS : RESIDUAL_BITS;
    localparam WIDE = WIDTH + LANE_BITS;
    localparam BANK_BITS = SIMD > PE ? $clog2(SIMD / PE) : 1;

    wire [PE*ACT_BITS-1:0] block;
    generate
        if (SIMD > PE) begin : banks
            assign block = activations[bank[BANK_BITS-1:0]*PE*ACT_BITS +: PE*ACT_BITS];
        end else begin : one_bank
            assign block = activations;
        end
    endgenerate

    genvar lane;
    generate
        for (lane = 0; lane < PE; lane = lane + 1) begin : each
            wire [WIDE-1:0] plane = memory
                ? {{(WIDE-RESIDUAL_BITS){1'b0}}, residuals[lane*RESIDUAL_BITS +: RESIDUAL_BITS]}
                : {{(WIDE-ACT_BITS){1'b0}}, block[lane*ACT_BITS +: ACT_BITS]};
            wire [WIDE-1:0] placed = plane << shift;
            wire [WIDTH-1:0] so_far = plane_first ? {WIDTH{1'b0}} : numbers[lane*WIDTH +: WIDTH];
            always @(posedge clk)
                if (valid) numbers[lane*WIDTH +: WIDTH] <= so_far | placed[WIDTH-1:0];
            wire unused = &{1'b0, placed};
        end
    endgenerate
    wire unused = &{1'b0, bank};
endmodule
